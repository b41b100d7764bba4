"""CyCLIP: what its two terms of consistency add to CLIP, and what they are of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipflow.model.batch import Batch
from clipflow.model.consistency import cross_modal, in_modal
from clipflow.model.towers import Towers
from clipflow.pretrain import stage
from fakes import dense
from fakes.artifacts import tokenized

WORDS = ["red car", "blue hat", "green car", "pink hat"]
WEIGHTS = "cross_modal", "in_modal"
TERMS = pytest.mark.parametrize("term", [cross_modal, in_modal])


def batch(towers: Towers) -> Batch:
    images = torch.randint(256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    texts = tokenized(towers, [[f"a {word}", f"the {word} here"] for word in WORDS])
    return Batch(images.to(torch.uint8), texts)


def unit(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize("architecture", ["clipflow-tiny", "clipflow-tiny-vit"])
def test_of_weights_0_it_is_clip(stage_params: Any, architecture: str) -> None:
    """The same loss and the same gradients, bit for bit; of either weight they differ."""
    results = []
    for name, weights in (
        *(("clip", {}), ("cyclip", dict.fromkeys(WEIGHTS, 0.0))),
        *(("cyclip", dict.fromkeys(WEIGHTS, 0.0) | {weight: 0.25}) for weight in WEIGHTS),
    ):
        params = stage_params("pretrain", recipe=name, architecture=architecture)
        torch.manual_seed(0)
        towers = stage.build(params)
        losses = params.recipe.model_copy(update=weights).objective(towers)(batch(towers))
        losses["loss"].backward()
        results.append([losses["loss"].detach(), *(p.grad for p in towers.parameters())])
    clip, without, *beside = results
    assert all(map(torch.equal, without, clip))
    for other in beside:
        assert not torch.equal(other[0], clip[0])
        assert not all(map(torch.equal, other[1:], clip[1:]))


def test_three_losses_are_reported_that_add_up(stage_params: Any) -> None:
    """Each term is the dense one of every version of the texts, averaged."""
    towers = Towers("clipflow-tiny", 0.07)
    recipe = stage_params("pretrain", recipe="cyclip").recipe
    weights = {"cross_modal": 0.3, "in_modal": 0.7}
    objective, of = recipe.model_copy(update=weights).objective(towers), batch(towers)
    losses = objective(of)
    across, within = losses["cross_modal_loss"], losses["in_modal_loss"]
    total = losses["contrastive_loss"] + 0.3 * across + 0.7 * within
    torch.testing.assert_close(losses["loss"].detach(), total)
    image, text = objective.embed(of)
    for ours, formula in ((across, dense.cross_modal), (within, dense.in_modal)):
        theirs = torch.stack([formula(image, one) for one in text.unbind(1)]).mean().detach()
        torch.testing.assert_close(ours, theirs)


@TERMS
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_identical_images_and_texts_are_consistent(
    term: Callable[[Tensor, Tensor], Tensor], precision: torch.dtype
) -> None:
    """Exactly, with gradients of 0."""
    images, texts = (unit(12, 8).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        value = term(images, texts)
    value.backward()
    assert value.item() == 0
    assert not images.grad.any()
    assert not texts.grad.any()


@TERMS
def test_nearly_identical_ones_are_measured_exactly(
    term: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """In float32, as the formula of float64 does; a difference of rounded cosines would lose it."""
    images = unit(12, 8)
    texts = images + 1e-6 * torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    exact = getattr(dense, term.__name__)(images.double(), texts.double())
    torch.testing.assert_close(term(images, texts).double(), exact, rtol=1e-4, atol=0)


@TERMS
def test_swapping_images_and_texts_changes_nothing(
    term: Callable[[Tensor, Tensor], Tensor],
) -> None:
    images, texts = unit(2, 12, 8)
    torch.testing.assert_close(term(texts, images), term(images, texts))


def test_each_term_is_blind_to_what_the_other_sees() -> None:
    """A rotation keeps cosines within texts; a stretch, which is symmetric, those with images."""
    images = unit(12, 8)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))
    assert in_modal(images, images @ rotation).item() == pytest.approx(0, abs=1e-12)
    assert cross_modal(images, images @ rotation) > 0.01
    stretch = torch.linspace(0.2, 1.8, 8)
    assert cross_modal(images, images * stretch).item() == pytest.approx(0, abs=1e-12)
    assert in_modal(images, images * stretch) > 0.01
