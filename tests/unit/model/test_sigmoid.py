"""The sigmoid loss by hand, as open_clip computes it, and by tiles of any size."""

from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import SigLipLoss
from torch.nn import functional

from clipflow.model import tiled
from clipflow.model.sigmoid import sigmoid_loss
from fakes import dense


def test_by_hand() -> None:
    """Two orthogonal pairs at scale 2 and bias -1: logits 1 and -1, four times log(1 + 1/e)."""
    unit = torch.eye(2)
    loss = sigmoid_loss(unit, unit, torch.tensor(2.0), torch.tensor(-1.0))
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-1)))


@pytest.mark.parametrize("elements", [1, 40, 2**22])
def test_equals_open_clip_whatever_the_tile(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", elements)
    values = dense.batch(16)
    results = []
    for loss in (sigmoid_loss, SigLipLoss(), dense.sigmoid):
        value = loss(*values)
        results.append([value, *torch.autograd.grad(value, values)])
    for peer in results[1:]:
        torch.testing.assert_close(results[0], peer, atol=1e-6, rtol=1e-6)


def test_gradients_are_the_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", 15)
    assert torch.autograd.gradcheck(sigmoid_loss, dense.batch(5, dtype=torch.float64))


def test_symmetric_and_invariant_to_order() -> None:
    images, texts, scale, bias = dense.batch(16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    loss = sigmoid_loss(images, texts, scale, bias)
    torch.testing.assert_close(sigmoid_loss(texts, images, scale, bias), loss)
    torch.testing.assert_close(sigmoid_loss(images[order], texts[order], scale, bias), loss)


def test_each_pair_is_a_question_of_its_own() -> None:
    """Unlike softmax: what two halves cost together is what each costs, and their pairs across."""
    images, texts, scale, bias = dense.batch(16)
    first, second = slice(8), slice(8, 16)
    halves = sum(8 * sigmoid_loss(images[h], texts[h], scale, bias) for h in (first, second))
    across = sum(
        functional.softplus(scale * images[a] @ texts[b].T + bias).sum()
        for a, b in ((first, second), (second, first))
    )
    torch.testing.assert_close(16 * sigmoid_loss(images, texts, scale, bias), halves + across)


def test_in_half_precision_it_is_close() -> None:
    values = dense.batch(64, 32)
    exact = sigmoid_loss(*values)
    with torch.autocast("cpu", torch.bfloat16):
        half = sigmoid_loss(*values)
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0.02)
