"""Tokens beside the whole: the whole is the towers' own, padding is nothing, chunks change nothing."""

import pytest
import torch

from clipflow.errors import ParamsError
from clipflow.model.token_embeddings import check, embed_image_tokens, embed_text_tokens
from clipflow.model.towers import Towers
from fakes.artifacts import tokenized

ARCHITECTURE = "clipflow-tiny-vit"


def images(num: int, side: int) -> torch.Tensor:
    return torch.randint(256, (num, side, side, 3), dtype=torch.uint8)


def test_the_whole_is_what_the_towers_make_of_it() -> None:
    towers = Towers(ARCHITECTURE, 0.07)
    texts = tokenized(towers, [["a car", "a car of red paint"]] * 10)
    pixels = images(3, towers.image_size_px)
    found, words = embed_image_tokens(towers, pixels), embed_text_tokens(towers, texts)
    torch.testing.assert_close(found.pooled, towers.embed_images(pixels))
    torch.testing.assert_close(words.pooled, towers.embed_texts(texts))
    grid = towers.clip.visual.grid_size
    assert found.tokens.shape[:2] == (3, grid[0] * grid[1])
    assert found.present.all()


def test_tokens_are_those_of_open_clip() -> None:
    """By its own forward, which the adopted blocks have taken the place of."""
    import open_clip

    towers = Towers(ARCHITECTURE, 0.07).eval()
    own = open_clip.create_model(ARCHITECTURE, force_custom_text=True, output_dict=False).eval()
    own.load_state_dict(towers.clip.state_dict())
    own.visual.output_tokens = own.text.output_tokens = True
    pixels = images(2, towers.image_size_px)
    _, expected = own.visual(towers.normalise(pixels))
    torch.testing.assert_close(
        embed_image_tokens(towers, pixels).tokens, expected @ own.visual.proj
    )
    ids = towers.tokenizer(["a red car"])
    _, expected = own.text(ids)
    found = embed_text_tokens(towers, tokenized(towers, [["a red car"]]))
    length = found.tokens.shape[2]
    assert found.present[0, 0].tolist() == [True] * length
    torch.testing.assert_close(
        found.tokens[0, 0], (expected @ own.text.text_projection)[0, :length]
    )


def test_padding_is_absent_and_zero() -> None:
    towers = Towers(ARCHITECTURE, 0.07)
    found = embed_text_tokens(towers, tokenized(towers, [["car"], ["a very red car of 1960"]]))
    assert found.present.sum(2).flatten().tolist()[0] < found.present.sum(2).flatten().tolist()[1]
    assert found.tokens[~found.present].abs().max() == 0
    assert found.tokens[found.present].abs().sum(1).min() > 0


def test_gradient_caching_changes_nothing() -> None:
    results = []
    for chunk_size in (None, 3):
        torch.manual_seed(0)
        towers = Towers(ARCHITECTURE, 0.07, chunk_size=chunk_size)
        pixels = images(8, towers.image_size_px)
        texts = tokenized(towers, [["a car " + "more " * (n % 5)] for n in range(8)])
        found, words = embed_image_tokens(towers, pixels), embed_text_tokens(towers, texts)
        loss = found.tokens.square().sum() + words.tokens.square().sum() + words.pooled.sum()
        loss.backward()
        results.append((loss, [p.grad for p in towers.parameters() if p.grad is not None]))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


def test_a_tower_without_tokens_is_refused() -> None:
    check(Towers(ARCHITECTURE, 0.07), "filip")
    with pytest.raises(ParamsError, match=r"pretrain\.architecture: recipe 'filip' .*image tower"):
        check(Towers("RN50", 0.07), "filip")
