"""The symmetric contrastive loss, with the targets and denominators of its relatives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipflow.model.tiled import Matrix, Rule, log_sum_exp_over_processes, tiled


def info_nce(
    images: Float[Tensor, "local dim"],
    texts: Float[Tensor, "local dim"],
    scale: Float[Tensor, ""],
    *,
    smoothing: float = 0.0,
    decoupled: bool = False,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of this process's rows of the global batch, whose contract is that of `tiled`.

    `smoothing` is the share of each target that is spread evenly over the whole batch, in [0, 1);
    `decoupled` leaves the positive out of the denominators, which takes a batch of two or more.

    Source: CLIP (Radford et al. 2021), figure 3; LaCLIP, equations 1 and 2. Smoothed targets: ALIGN (Jia et
    al. 2021, arXiv:2102.05918). Decoupled: DCL (Yeh et al. 2022, arXiv:2110.06848), section 3.
    """
    return tiled(InfoNce(smoothing, decoupled), images, texts, scale)


@dataclass
class InfoNce(Rule):
    """Cross-entropy of the softmax over each row and over each column."""

    smoothing: float = 0.0
    decoupled: bool = False
    row_sums: Tensor = field(init=False)
    column_sums: Tensor = field(init=False)
    """Logarithms of the denominators."""

    terms: ClassVar[int] = 2

    def value(self, matrix: Matrix) -> Float[Tensor, ""]:
        """Logarithms of the denominators, less the similarities that the targets weigh."""
        self.row_sums, self.column_sums = log_denominators(matrix, decoupled=self.decoupled)
        targeted = (1 - self.smoothing) * matrix.positives()
        loss = (self.row_sums + self.column_sums[matrix.own] - 2 * targeted).mean() / 2
        return loss - self.smoothing * matrix.mean() if self.smoothing else loss

    def gradient(self, matrix: Matrix, tile: Tensor, rows: slice) -> Float[Tensor, "rows all"]:
        """Softmax less target, over rows and over columns."""
        weights = (tile - self.row_sums[rows, None]).exp_()
        weights += (tile - self.column_sums).exp_()
        positive = matrix.diagonal(weights, rows)
        if self.decoupled:
            positive.zero_()
        positive.sub_(2 * (1 - self.smoothing))
        if self.smoothing:
            weights -= 2 * self.smoothing / len(matrix.texts)
        return weights


def log_denominators(
    matrix: Matrix, *, decoupled: bool
) -> tuple[Float[Tensor, " local"], Float[Tensor, " all"]]:
    """Logarithms of the sums of exponentials over each row, and over each column of all processes.

    With or, if `decoupled`, without the element where row and column belong together.
    """
    row_sums = matrix.scale.new_empty(len(matrix.images))
    column_sums = matrix.scale.new_full((len(matrix.texts),), -torch.inf)
    for rows, tile in matrix.tiles():
        if decoupled:
            matrix.diagonal(tile, rows).fill_(-torch.inf)
        row_sums[rows] = tile.logsumexp(1)
        column_sums = torch.logaddexp(column_sums, tile.logsumexp(0))
        del tile
    return row_sums, log_sum_exp_over_processes(column_sums)
