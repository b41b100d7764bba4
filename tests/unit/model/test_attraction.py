"""Attraction and repulsion: limit cases, monotone weights, and equality with the dense formula."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipflow.model import tiled
from clipflow.model.attraction import Repulsion, attraction, repulsion
from fakes import dense


def pairs(num_texts: int = 4) -> tuple[Tensor, Tensor]:
    """Images and several texts of each."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        functional.normalize(torch.randn(*shape, 8, generator=generator), dim=-1)
        for shape in ((16,), (16, num_texts))
    )
    return images, texts


def squared(images: Tensor, texts: Tensor) -> Tensor:
    return (images[:, None] - texts).square().sum(2)


@pytest.mark.parametrize("elements", [1, 40, 2**22])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_repulsion_equals_the_dense_formula(
    monkeypatch: pytest.MonkeyPatch, elements: int, temperature: float
) -> None:
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", elements)
    values = dense.batch(16)[:2]
    results = []
    for loss in (repulsion, dense.repulsion):
        value = loss(*values, temperature)
        results.append([value, *torch.autograd.grad(value, values)])
    torch.testing.assert_close(results[0], results[1], atol=2e-6, rtol=1e-5)


def test_gradients_are_the_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", 15)
    values = dense.batch(5, dtype=torch.float64)[:2]
    assert torch.autograd.gradcheck(partial(repulsion, temperature=1.5), values)


def test_at_temperature_0_the_weights_are_uniform() -> None:
    images, texts = pairs()
    torch.testing.assert_close(attraction(images, texts, 0.0), squared(images, texts).mean())
    negatives = torch.cdist(images, texts[:, 0]).square()[~torch.eye(16, dtype=torch.bool)]
    torch.testing.assert_close(repulsion(images, texts[:, 0], 0.0), -negatives.mean())


def test_the_hotter_the_more_it_is_about_the_farthest_positive_and_the_nearest_negative() -> None:
    images, texts = pairs()
    temperatures = (0.0, 0.5, 1.0, 2.0, 8.0, 1000.0)
    attracted = [attraction(images, texts, t).item() for t in temperatures]
    repelled = [repulsion(images, texts[:, 0], t).item() for t in temperatures]
    assert attracted == sorted(attracted)
    assert repelled == sorted(repelled)
    distances = squared(images, texts)
    farthest = (distances.amax(1) + distances.mean(1)).mean() / 2
    assert attracted[-1] == pytest.approx(farthest.item(), abs=1e-3)
    others = torch.cdist(images, texts[:, 0]).square().fill_diagonal_(torch.inf)
    nearest = (others.amin(0).mean() + others.amin(1).mean()) / 2
    assert repelled[-1] == pytest.approx(-nearest.item(), abs=2e-3)


def test_a_farther_positive_is_pulled_more() -> None:
    """An image and texts on a circle: the loss falls more steeply with the cosine of a farther one."""
    angles = torch.linspace(0.2, 1.4, 6)
    cosines = angles.cos().requires_grad_()
    texts = torch.stack([cosines, angles.sin()], dim=1)[None]
    loss = attraction(torch.tensor([[1.0, 0.0]]), texts, 1.0)
    (pull,) = torch.autograd.grad(loss, cosines)
    assert (pull.diff() < 0).all()


def test_a_nearer_negative_weighs_more_and_the_positive_nothing() -> None:
    images, texts = pairs(1)
    matrix = tiled.Matrix(images, texts[:, 0], torch.tensor(2.0))
    rule = Repulsion(1.0)
    rule.value(matrix)
    ((rows, tile),) = matrix.tiles()
    of_rows, of_columns = rule.weights(matrix, tile, rows)
    for weights, similarities in ((of_rows, tile), (of_columns.T, tile.T)):
        torch.testing.assert_close(weights.sum(1), torch.ones(16))
        assert (weights.diagonal() == 0).all()
        for number in range(16):
            others = torch.arange(16) != number
            by_nearness = similarities[number, others].argsort()
            assert (weights[number, others][by_nearness].diff() > 0).all()


def test_with_one_text_attraction_is_the_squared_distance() -> None:
    images, texts = pairs(1)
    for temperature in (0.0, 2.0):
        torch.testing.assert_close(
            attraction(images, texts, temperature), squared(images, texts).mean()
        )


def test_invariant_to_order_and_to_which_side_is_which() -> None:
    images, texts = pairs()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    loss = repulsion(images, texts[:, 0], 1.0)
    torch.testing.assert_close(repulsion(images[order], texts[order, 0], 1.0), loss)
    torch.testing.assert_close(repulsion(texts[:, 0], images, 1.0), loss)
    torch.testing.assert_close(
        attraction(images, texts.flip(1), 1.0), attraction(images, texts, 1.0)
    )
