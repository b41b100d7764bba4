import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
)

from clipflow.rewrite import decoding

VOCABULARY, NEW_TOKENS = 64, 20
STOPS = {2, *range(0, VOCABULARY, 5)}
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
       "tie_word_embeddings": False}  # fmt: skip
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "rotary": LlamaConfig(**IDS, **SIZES, intermediate_size=64, initializer_range=0.2),
    "learned positions": GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2),
    "learned positions with an offset": OPTConfig(
        **IDS, **SIZES, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2
    ),
    "no positions": BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.2),
    "some layers with a window": Gemma2Config(
        **IDS, **SIZES, intermediate_size=64, num_key_value_heads=1, head_dim=16, sliding_window=99,
        initializer_range=0.2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_models_of_all_kinds_write_what_transformers_makes_them_write(
    config: PreTrainedConfig,
) -> None:
    """A beginning read once, prompts of different lengths in a batch that shrinks: each as if alone."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    rng = np.random.default_rng(0)
    beginning = rng.integers(3, VOCABULARY, 30).tolist()
    prompts = [rng.integers(3, VOCABULARY, num).tolist() for num in (3, 9, 1, 17, 5, 5, 2, 11)]
    noises = [[decoding.noise(0, i, NEW_TOKENS)] for i in range(len(prompts))]
    decoder = decoding.Decoder(model, STOPS, 0.9, 1e-6, NEW_TOKENS)
    written = decoder.continued(decoder.read(beginning), prompts, noises)
    assert len({len(text) for (text,) in written}) > 2
    for prompt, (text,) in zip(prompts, written, strict=True):
        whole = torch.tensor([beginning + prompt])
        (output,) = model.generate(
            whole, attention_mask=torch.ones_like(whole), do_sample=False, max_length=None,
            max_new_tokens=NEW_TOKENS, eos_token_id=sorted(STOPS), pad_token_id=0,
        )  # fmt: skip
        assert text == output[whole.shape[1] :].tolist()


def test_drawn_tokens_follow_their_probabilities() -> None:
    likely = torch.tensor([0.5, 0.1, 0.3, 0.06, 0.04])
    uniform = torch.linspace(0, 1, 10_001)[:-1]
    logits = likely.log().expand(len(uniform), -1)
    shares = np.bincount(decoding.draw(logits, uniform, 1.0, 1.0), minlength=5) / len(uniform)
    assert shares == pytest.approx(likely.numpy(), abs=1e-3)
    shares = np.bincount(decoding.draw(logits, uniform, 1.0, 0.75), minlength=5) / len(uniform)
    assert shares == pytest.approx([5 / 8, 0, 3 / 8, 0, 0], abs=1e-3)
    # At temperature 1/2 the odds are squared.
    squared = (likely**2 / (likely**2).sum()).numpy()
    shares = np.bincount(decoding.draw(logits, uniform, 0.5, 1.0), minlength=5) / len(uniform)
    assert shares == pytest.approx(squared, abs=1e-3)


def test_the_largest_uniform_number_draws_a_token_that_may_be_drawn() -> None:
    logits = torch.full((1, 1000), -5.0)
    logits[0, 7] = logits[0, 500] = 3.0
    almost_one = torch.tensor([1.0]).nextafter(torch.tensor([0.0]))
    for uniform in (almost_one, torch.tensor([1.0])):
        assert decoding.draw(logits, uniform, 1.0, 0.5).tolist()[0] in {7, 500}


def test_rows_that_go_on_stay_in_place_where_they_can() -> None:
    assert decoding.compacted([True, False, True, False, True]) == [0, 4, 2]
    assert decoding.compacted([False, False, True]) == [2]
    assert decoding.compacted([True, True]) == [0, 1]
