"""How far the cosines of images and texts are from being the same when the two are interchanged."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipflow.model.tiled import Matrix, Rule, tiled


def cross_modal(
    images: Float[Tensor, "local dim"], texts: Float[Tensor, "local dim"]
) -> Float[Tensor, ""]:
    """Sum over pairs (j, k) of (<image j, text k> - <image k, text j>)^2, over the number of images.

    The contract is that of `tiled`.

    Source: Goel et al. 2022 (CyCLIP, arXiv:2205.14459), section 3, cross-modal consistency.
    """
    sums, differences = images + texts, images - texts
    return _sum_of_squares(sums, differences, torch.cat([-differences, sums], 1))


def in_modal(
    images: Float[Tensor, "local dim"], texts: Float[Tensor, "local dim"]
) -> Float[Tensor, ""]:
    """Sum over pairs (j, k) of (<image j, image k> - <text j, text k>)^2, over the number of images.

    The contract is that of `tiled`.

    Source: Goel et al. 2022 (CyCLIP, arXiv:2205.14459), section 3, in-modal consistency.
    """
    sums, differences = images + texts, images - texts
    return _sum_of_squares(sums, differences, torch.cat([differences, sums], 1))


def _sum_of_squares(
    sums: Float[Tensor, "local dim"],
    differences: Float[Tensor, "local dim"],
    others: Float[Tensor, "local twice_dim"],
) -> Float[Tensor, ""]:
    """Sum of squares of half the products of (sum, difference) of one pair with what is made of another's.

    Such a half product is the difference of two cosines. It is computed without subtracting one from the
    other, so that it is exact where they are nearly the same, and 0 where images are texts.
    """
    return tiled(SumOfSquares(), torch.cat([sums, differences], 1), others, sums.new_tensor(0.5))


class SumOfSquares(Rule):
    """The sum of the squares of all elements, divided by the number of rows."""

    terms: ClassVar[int] = 1

    def value(self, matrix: Matrix) -> Float[Tensor, ""]:
        """The sum of squares of this process's rows, divided by their number."""
        total = matrix.scale.new_zeros(())
        for _, tile in matrix.tiles():
            total += tile.square_().sum()
            del tile
        return total / len(matrix.images)

    def gradient(self, matrix: Matrix, tile: Tensor, rows: slice) -> Float[Tensor, "rows all"]:
        """Twice the element."""
        return 2 * tile
