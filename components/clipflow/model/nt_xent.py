"""The contrastive loss between two views of each image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipflow.model.tiled import Matrix, Rule, tiled


def nt_xent(
    first: Float[Tensor, "local dim"], second: Float[Tensor, "local dim"], temperature: float
) -> Float[Tensor, ""]:
    """NT-Xent of this process's rows of the global batch, whose contract is that of `tiled`.

    Of each view, the cross-entropy of telling the other view of its image from the views of all other
    images: 2N - 2 of them in a global batch of N.

    Source: Chen et al. 2020 (SimCLR, arXiv:2002.05709), section 2.1, equation 1.
    """
    views, partners = torch.cat([first, second]), torch.cat([second, first])
    return tiled(NtXent(), views, partners, first.new_tensor(1 / temperature))


@dataclass
class NtXent(Rule):
    """Cross-entropy of the softmax over each row, without the view itself.

    Rows are the first and then the second views; the column of a row is its other view, so that the view
    itself is half of this process's columns away.
    """

    row_sums: Tensor = field(init=False)
    """Logarithms of the denominators."""

    terms: ClassVar[int] = 1

    def value(self, matrix: Matrix) -> Float[Tensor, ""]:
        """Logarithms of the denominators, less the similarities of views of one image."""
        self.row_sums = matrix.scale.new_empty(len(matrix.images))
        for rows, tile in matrix.tiles():
            tile[itself(matrix, rows)] = -torch.inf
            self.row_sums[rows] = tile.logsumexp(1)
            del tile
        return (self.row_sums - matrix.positives()).mean()

    def gradient(self, matrix: Matrix, tile: Tensor, rows: slice) -> Float[Tensor, "rows all"]:
        """Softmax less target."""
        weights = (tile - self.row_sums[rows, None]).exp_()
        weights[itself(matrix, rows)] = 0
        matrix.diagonal(weights, rows).sub_(1)
        return weights


def itself(matrix: Matrix, rows: slice) -> tuple[Tensor, Tensor]:
    """Where a tile compares a view with itself."""
    views = torch.arange(rows.start, rows.stop, device=matrix.images.device)
    half = len(matrix.images) // 2
    return views - rows.start, matrix.first + (views + half) % (2 * half)
