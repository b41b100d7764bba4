"""Groups of patches: planted ones are found, their order is nothing, and equal patches share."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from clipflow.model.grouping import group_weights, grouped_patches

DIRECTIONS = torch.eye(8)[:4]
"""What patches show: a background and three things."""
SHOWN = torch.tensor([[0, 1, 1, 2, 0, 2, 2, 0, 3], [3, 3, 0, 0, 0, 1, 0, 2, 2]])
"""What each of two images' patches shows."""


def patches(length: float = 3.0) -> torch.Tensor:
    return length * DIRECTIONS[SHOWN]


def texts() -> torch.Tensor:
    """One about each thing."""
    return DIRECTIONS[1:].expand(2, 3, 8)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.5])
def test_planted_groups_are_found(threshold: float | None) -> None:
    """A text's patches are those that show its thing, evenly, and none of the others."""
    weights = group_weights(patches(), texts(), threshold)
    for thing in (1, 2, 3):
        expected = (thing == SHOWN).float()
        torch.testing.assert_close(weights[:, thing - 1], expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(grouped_patches(patches(), texts(), threshold), texts())


def test_a_text_of_two_things_pools_the_mean_of_both() -> None:
    """Of things that differ in similarity, each counts by how near it is between background and best."""
    text = functional.normalize(2 * DIRECTIONS[1] + DIRECTIONS[2], dim=0).expand(2, 1, 8)
    cosine = torch.tensor([0.0, 1.0, 0.5, 0.0])[SHOWN]  # already from 0 to 1 over each image
    expected = functional.normalize((cosine[:, :, None] * DIRECTIONS[SHOWN]).sum(1), dim=1)
    torch.testing.assert_close(grouped_patches(patches(), text, None)[:, 0], expected)
    only_the_nearest = grouped_patches(patches(), text, 0.6)[:, 0]
    torch.testing.assert_close(only_the_nearest, DIRECTIONS[1].expand(2, 8))


def test_the_default_threshold_is_1_over_the_number_of_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, text = (torch.randn(50, n, 8, generator=generator) for n in (9, 2))
    found = group_weights(tokens, text, None)
    torch.testing.assert_close(found, group_weights(tokens, text, 1 / 9))
    assert not torch.equal(found, group_weights(tokens, text, 0.0))
    shares = found / found.amax(2, keepdim=True)
    assert shares[shares > 0].min() >= 1 / 9 - 1e-6
    torch.testing.assert_close(found.sum(2), torch.ones(50, 2))


def test_the_order_and_the_length_of_patches_are_nothing() -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    tokens, text = torch.randn(4, 9, 8), torch.randn(4, 3, 8)
    expected = grouped_patches(tokens, text, None)
    torch.testing.assert_close(grouped_patches(tokens[:, order], text, None), expected)
    lengths = torch.rand(4, 9, 1) + 0.5
    torch.testing.assert_close(grouped_patches(tokens * lengths, text, None), expected)


def test_equal_patches_have_equal_shares_and_finite_gradients() -> None:
    tokens = torch.ones(2, 5, 8, requires_grad=True)
    text = torch.randn(2, 3, 8, requires_grad=True)
    weights = group_weights(tokens, text, None)
    torch.testing.assert_close(weights, torch.full((2, 3, 5), 0.2))
    grouped_patches(tokens, text, None).square().sum().backward()
    for value in (tokens, text):
        assert value.grad is not None
        assert value.grad.isfinite().all()


def test_gradients_go_through_the_shares() -> None:
    """Those of the differences, where a threshold cuts nothing off within the differences' reach."""
    generator = torch.Generator().manual_seed(0)
    tokens, text = (
        torch.randn(2, n, 4, dtype=torch.float64, generator=generator).requires_grad_()
        for n in (6, 2)
    )
    assert torch.autograd.gradcheck(lambda p, t: grouped_patches(p, t, 0.1), (tokens, text))
