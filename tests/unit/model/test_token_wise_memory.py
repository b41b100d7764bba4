"""Late interaction holds one tile of cosines at a time, however many images and texts there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipflow.model import tiled
from clipflow.model.token_wise import TokenWise, token_wise_info_nce
from fakes.memory import peak_mib

PATCHES, WORDS, DIM = 49, 32, 16
SCALE = torch.tensor(14.3)


def dense(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """By the whole tensor of cosines: [images, patches, texts, words]."""
    cosines = torch.einsum("ind,jld->injl", images, texts)
    to_texts, to_images = cosines.amax(3).mean(1), cosines.amax(1).mean(2)
    own = torch.arange(len(images))
    rows = functional.cross_entropy(scale * to_texts, own)
    return (rows + functional.cross_entropy(scale * to_images.T, own)) / 2


def rows(batch: int, length: int) -> Tensor:
    return functional.normalize(torch.randn(batch, length, DIM), dim=2).requires_grad_()


def step(loss: Callable[..., Tensor], batch: int) -> Callable[[], object]:
    images, texts = rows(batch, PATCHES), rows(batch, WORDS)
    return lambda: loss(images, texts, SCALE).backward()


def scores(batch: int) -> Callable[[], object]:
    images, texts = (rows(batch, n).detach().flatten(1) for n in (PATCHES, WORDS))
    return lambda: TokenWise(DIM).scores(images, texts)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", 2**19)  # 2 MiB


def test_memory_is_that_of_a_tile() -> None:
    """Of 128 pairs all cosines would take 98 MiB, and backward several times that."""
    small, large = (peak_mib(partial(step, token_wise_info_nce, batch)) for batch in (64, 128))
    whole = peak_mib(partial(step, dense, 128))
    assert large < 1.6 * small, (small, large, whole)
    assert whole > 5 * large, (small, large, whole)


def test_memory_of_scores_is_that_of_a_tile() -> None:
    found = peak_mib(partial(scores, 128))
    assert found < 20, found
