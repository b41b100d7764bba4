"""InfoNCE by hand, as open_clip and the usual formula compute it, and by tiles of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from clipflow.model import tiled as module
from clipflow.model.info_nce import info_nce
from fakes import dense


def rows(num: int, dim: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Images, texts and a scale, all wanting gradients."""
    return dense.batch(num, dim, seed, dtype)[:3]


def with_gradients(loss: Callable[..., Tensor], values: list[Tensor]) -> list[Tensor]:
    """The loss, and its gradients to images, texts and scale."""
    value = loss(*values)
    return [value, *torch.autograd.grad(value, values)]


def test_by_hand() -> None:
    """Two orthogonal pairs at scale ln 3: each row is softmax(ln 3, 0), so the loss is ln(4/3)."""
    unit = torch.eye(2)
    assert info_nce(unit, unit, torch.tensor(math.log(3))).item() == pytest.approx(math.log(4 / 3))


def test_indistinguishable_pairs_cost_ln_n() -> None:
    same = functional.normalize(torch.ones(5, 3), dim=1)
    assert info_nce(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("elements", [1, 40, 16 * 16, 2**22])
def test_equals_the_dense_loss_whatever_the_tile(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    """Tiles of one row, of rows that don't divide the batch, of all: values and gradients."""
    monkeypatch.setattr(module, "TILE_ELEMENTS", elements)
    ours = with_gradients(info_nce, rows(16))
    for peer in (dense.info_nce, ClipLoss()):
        for value, expected in zip(ours, with_gradients(peer, rows(16)), strict=True):
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("elements", [1, 40, 2**22])
@pytest.mark.parametrize("kind", [{"smoothing": 0.1}, {"decoupled": True}], ids=str)
def test_its_relatives_equal_their_dense_losses(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], elements: int
) -> None:
    monkeypatch.setattr(module, "TILE_ELEMENTS", elements)
    ours = with_gradients(partial(info_nce, **kind), rows(16))
    for value, expected in zip(
        ours, with_gradients(partial(dense.info_nce, **kind), rows(16)), strict=True
    ):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [{}, {"smoothing": 0.1}, {"decoupled": True}, {"weights": torch.tensor([0, 1, 2, 0.5, 1])}],
    ids=str,
)
def test_gradients_are_the_differences(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    monkeypatch.setattr(module, "TILE_ELEMENTS", 15)
    assert torch.autograd.gradcheck(partial(info_nce, **kind), rows(5, dtype=torch.float64))


KINDS: list[dict[str, Any]] = [{}, {"smoothing": 0.1}, {"decoupled": True}]


@pytest.mark.parametrize("elements", [1, 40, 2**22])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weighted_it_equals_the_weighted_dense_loss(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], elements: int
) -> None:
    monkeypatch.setattr(module, "TILE_ELEMENTS", elements)
    kind = {**kind, "weights": torch.linspace(0, 1.5, 16)}
    ours, expected = (
        with_gradients(partial(loss, **kind), rows(16)) for loss in (info_nce, dense.info_nce)
    )
    for value, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(value, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weights_of_one_change_no_bit(kind: dict[str, Any]) -> None:
    ours = with_gradients(partial(info_nce, **kind, weights=torch.ones(16)), rows(16))
    assert all(map(torch.equal, ours, with_gradients(partial(info_nce, **kind), rows(16))))


def test_weights_carry_no_gradient_and_one_of_0_leaves_its_pair_to_the_others() -> None:
    images, texts, scale = rows(6)
    weights = torch.tensor([0.0, 1, 1, 1, 1, 1], requires_grad=True)
    loss = info_nce(images, texts, scale, weights=weights)
    loss.backward()
    assert weights.grad is None
    logits, labels = scale * images @ texts.T, torch.arange(6)
    each = [functional.cross_entropy(way, labels, reduction="none") for way in (logits, logits.T)]
    torch.testing.assert_close(loss, torch.stack(each)[:, 1:].sum() / 12)


def test_smoothed_targets_are_those_of_cross_entropy() -> None:
    images, texts, scale = rows(16)
    logits, labels = scale * images @ texts.T, torch.arange(16)
    expected = [
        functional.cross_entropy(each, labels, label_smoothing=0.1) for each in (logits, logits.T)
    ]
    loss = info_nce(images, texts, scale, smoothing=0.1)
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_decoupled_the_pull_on_a_positive_does_not_depend_on_how_near_it_is() -> None:
    """With the basis as texts, an image's coordinates are its similarities: dL/dpositive is -1/N."""
    texts, scale = torch.eye(8), torch.tensor(20.0)
    for nearness in (0.0, 1.0, 5.0):
        images = functional.normalize(rows(8)[0].detach() + nearness * texts, dim=1)
        images.requires_grad_()
        pulls = {}
        for decoupled in (True, False):
            loss = info_nce(images, texts, scale, decoupled=decoupled)
            pulls[decoupled] = torch.autograd.grad(loss, images)[0].diagonal() / scale
        torch.testing.assert_close(pulls[True], torch.full((8,), -1 / 8))
        if nearness == 5.0:
            assert (pulls[False] > -1e-3 / 8).all()


def test_symmetric_and_invariant_to_order() -> None:
    images, texts, scale = rows(16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    loss = info_nce(images, texts, scale)
    torch.testing.assert_close(info_nce(texts, images, scale), loss)
    torch.testing.assert_close(info_nce(images[order], texts[order], scale), loss)


def test_stable_at_the_largest_scale() -> None:
    images = rows(64)[0]
    values = [images, -images.detach().requires_grad_(), torch.tensor(100.0, requires_grad=True)]
    for value, expected in zip(
        with_gradients(info_nce, values), with_gradients(dense.info_nce, values), strict=True
    ):
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


def test_half_precision_is_close_and_comes_back_in_kind() -> None:
    images, texts, scale = rows(64, 32)
    exact = with_gradients(info_nce, [images, texts, scale])
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(images, texts, scale)
    torch.testing.assert_close(loss, exact[0], atol=0.02, rtol=0.01)
    halves = [
        images.detach().bfloat16().requires_grad_(),
        texts.detach().bfloat16().requires_grad_(),
    ]
    gradients = torch.autograd.grad(info_nce(*halves, scale), halves)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    torch.testing.assert_close(gradients[0].float(), exact[1], atol=0.01, rtol=0.1)


def test_what_is_not_finite_stays_so() -> None:
    images, texts, scale = rows(4)
    assert info_nce(images * float("nan"), texts, scale).isnan()


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor has."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_never_holds_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE_ELEMENTS", 2048)
    values = rows(512)
    with Largest() as seen:
        info_nce(*values).backward()
    assert seen.elements == 512 * 8
    with Largest() as seen:
        dense.info_nce(*values).backward()
    assert seen.elements == 512 * 512
