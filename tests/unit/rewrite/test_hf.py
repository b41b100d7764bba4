from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts
from clipflow.rewrite.generators import Proposal, Request
from clipflow.rewrite.generators.hf import HF


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights and a byte-level BPE of its own, without a pad token."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [prompts.draw("a dog on a beach", i, seed).text for i in range(4) for seed in range(4)]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def hf(folder: Path, **changed: Any) -> HF:
    fields = {
        "name": "hf",
        "model": str(folder),
        "revision": "main",
        "batch_size": 3,
        "max_new_tokens": 8,
        "temperature": 0.9,
        "top_p": 0.95,
        "precision": "float32",
    }
    return HF(**{**fields, **changed})


REQUESTS = [
    Request("a", "a dog", 4, 1),
    Request("b", "a long caption about two boats in a harbor at night", 4, 2),
    Request("c", "a cat", 0, 3),
    Request("d", "a bird", 1, 4),
]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_each_request_gets_what_it_asked_for(folder: Path, batch_size: int) -> None:
    answers = list(hf(folder, batch_size=batch_size).propose(REQUESTS))
    assert [len(answer) for answer in answers] == [4, 4, 0, 1]
    assert [p.source for p in answers[0]] == list(prompts.SOURCES)


def test_equal_seeds_give_equal_rewrites(folder: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = list(hf(folder).propose(REQUESTS))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert list(hf(folder).propose(REQUESTS)) == first
    others = [Request(r.key, r.caption, r.num_rewrites, r.seed + 10) for r in REQUESTS]
    assert list(hf(folder).propose(others)) != first


def spy_on_generate(monkeypatch: pytest.MonkeyPatch, write: list[str]) -> list[list[str]]:
    """Replaces decoding: the next of `write` continues each prompt. Returns the prompts seen."""
    seen: list[list[str]] = []
    load = AutoModelForCausalLM.from_pretrained
    texts = iter(write)

    def loaded(name: str, **options: Any) -> Any:
        model = load(name, **options)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(name)

        def generate(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
            rows = zip(input_ids, attention_mask.bool(), strict=True)
            seen.append([tokenizer.decode(ids[mask]) for ids, mask in rows])
            assert attention_mask[:, -1].all()  # padded on the left
            new = [tokenizer(next(texts)).input_ids for _ in input_ids]
            width = max(len(ids) for ids in new)
            padded = [ids + [tokenizer.eos_token_id] * (width - len(ids)) for ids in new]
            return torch.cat([input_ids, torch.tensor(padded)], dim=1)

        model.generate = generate
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)
    return seen


def test_the_model_sees_the_prompts_and_answers_go_to_their_captions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy_on_generate(monkeypatch, [f" rewrite {i}\nmore => text" for i in range(9)])
    answers = list(hf(folder).propose(REQUESTS))
    expected = [
        prompts.draw(r.caption, i, r.seed).text for r in REQUESTS for i in range(r.num_rewrites)
    ]
    assert [text for batch in seen for text in batch] == expected
    assert [len(batch) for batch in seen] == [3, 3, 3]
    assert [p.text for answer in answers for p in answer] == [f"rewrite {i}" for i in range(9)]


def test_decoding_stops_at_the_end_of_the_line(folder: Path) -> None:
    """A model made to write newlines stops after one token, however many it may write."""
    from clipflow.rewrite.generators import hf as module

    writer = module._Writer(hf(folder, max_new_tokens=64))
    newline = writer.tokenizer("\n").input_ids[-1]
    assert newline in writer.stops
    assert writer.tokenizer.eos_token_id in writer.stops
    assert writer.tokenizer("dog").input_ids[-1] not in writer.stops
    lengths = []
    writer.model.register_forward_hook(lambda *_: lengths.append(1))

    def push_newline(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        pushed = logits.clone()
        pushed[..., newline] += 1e4
        return pushed

    writer.model.lm_head.register_forward_hook(push_newline)
    assert writer.complete(["a dog =>", "a cat on a mat =>"], seed=0) == ["\n", "\n"]
    assert len(lengths) == 1


def test_padding_does_not_change_what_is_written(folder: Path) -> None:
    """With one token to choose from (top_p near 0), a prompt alone and in a batch give one text."""
    from clipflow.rewrite.generators import hf as module

    writer = module._Writer(hf(folder, top_p=1e-6))
    texts = ["a dog =>", "two boats in a harbor at night with lights =>"]
    together = writer.complete(texts, seed=0)
    assert together == [writer.complete([text], seed=0)[0] for text in texts]


def test_a_long_caption_is_cut_and_says_so(folder: Path) -> None:
    request = Request("k", "boat " * 400, 1, 0)
    ((proposal,),) = hf(folder).propose([request])
    assert isinstance(proposal, Proposal)
    assert proposal.source == "chatgpt, caption cut"


def test_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(GeneratorError, match="no tokenizer there"):
        hf(tmp_path).propose([])


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"no config\.json there"):
        hf(tmp_path).propose([])


def test_a_folder_with_damaged_weights(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(GeneratorError, match="can't load the model in this folder"):
        hf(tmp_path).propose([])


def test_an_unknown_model_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(GeneratorError, match="no network or unknown model 'nobody/nothing'"):
        hf(Path("nobody/nothing")).propose([])
