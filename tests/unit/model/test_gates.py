"""Consistency gates: the formula, the averages, what is not compared, and that no gradient passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipflow.model.gates import ConsistencyGates

ALL = torch.ones(2, dtype=torch.bool)


def gates(start: float = 1.0, momentum: float = 0.9) -> ConsistencyGates:
    return ConsistencyGates(
        momentum=momentum, start=start, sample_sharpness=2.0, pair_sharpness=3.0
    )


def at(*degrees: float) -> Tensor:
    """Unit vectors of a plane."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_the_averages_by_hand_over_two_steps() -> None:
    moved = gates(start=1.0, momentum=0.9)
    image, caption, synthetic = at(0, 0), at(60, 90), at(30, 30)
    usual = torch.ones(3)
    means = torch.tensor(
        [(cos(30) + cos(60)) / 2, (cos(60) + cos(90)) / 2, (cos(30) + cos(30)) / 2]
    )
    for _ in range(2):
        moved(image, caption, synthetic, ALL)
        usual = 0.9 * usual + 0.1 * means
        torch.testing.assert_close(moved.averages, usual)
    moved.eval()(image, caption, synthetic, ALL)
    torch.testing.assert_close(moved.averages, usual)


def test_the_weights_by_hand() -> None:
    """The first sample's texts agree less than the average of 0.5, the second's more."""
    weights = gates(start=0.5).eval()(at(0, 0), at(70, 85), at(-20, 85), ALL)
    sample = math.exp(2 * (cos(90) - 0.5))
    expected = [sample * math.exp(3 * (cos(d) - 0.5)) for d in (70, 20)]
    torch.testing.assert_close(weights[:, 0], torch.tensor(expected))
    assert expected[1] > sample  # a pair's gate is not clipped at 1
    assert weights[:, 1].tolist() == [1, 1]


def test_at_or_above_the_averages_nothing_is_gated() -> None:
    same = functional.normalize(torch.randn(8, 4), dim=1)
    weights = gates(start=-1.0)(same, same.flip(0), same, torch.ones(8, dtype=torch.bool))
    assert (weights == 1).all()


def test_what_is_not_compared_has_weight_1_and_no_part_in_the_averages() -> None:
    compared = torch.tensor([True, False])
    alone, both = gates(), gates()
    image, caption, synthetic = at(0, 0), at(60, 90), at(30, 30)
    weights = both(image, caption, synthetic, compared)
    expected = alone(image[:1], caption[:1], synthetic[:1], ALL[:1])
    torch.testing.assert_close(weights[:, :1], expected)
    assert weights[:, 1].tolist() == [1, 1]
    assert torch.equal(both.averages, alone.averages)
    both(image, caption, synthetic, ~ALL)
    assert torch.equal(both.averages, alone.averages)


def test_no_gradient_passes() -> None:
    values = [at(0, 10).requires_grad_() for _ in range(3)]
    assert not gates()(*values, ALL).requires_grad


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_what_is_not_finite_leaves_the_averages(spoiled: float) -> None:
    """The step is skipped; the next one goes on from averages of numbers."""
    kept = gates()
    kept(at(0, 10), at(20, 30), at(5, 5), ALL)
    before = kept.averages.clone()
    kept(at(0, 10) * spoiled, at(20, 30), at(5, 5), ALL)
    assert torch.equal(kept.averages[1:], before[1:])
    assert kept.averages.isfinite().all()
