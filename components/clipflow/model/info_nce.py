"""The symmetric contrastive loss, with the targets, denominators and pair weights of its relatives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipflow.model.tiled import Matrix, Rule, gather, log_sum_exp_over_processes, tiled


def info_nce(
    images: Float[Tensor, "local dim"],
    texts: Float[Tensor, "local dim"],
    scale: Float[Tensor, ""],
    *,
    smoothing: float = 0.0,
    decoupled: bool = False,
    weights: Float[Tensor, " local"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of this process's rows of the global batch, whose contract is that of `tiled`.

    `smoothing` is the share of each target that is spread evenly over the whole batch, in [0, 1);
    `decoupled` leaves the positive out of the denominators, which takes a batch of two or more; `weights`
    are what each pair's cross-entropies, of its image and of its text, are multiplied by before the mean
    over the batch. They carry no gradient.

    Source: CLIP (Radford et al. 2021), figure 3; LaCLIP, equations 1 and 2. Smoothed targets: ALIGN (Jia et
    al. 2021, arXiv:2102.05918). Decoupled: DCL (Yeh et al. 2022, arXiv:2110.06848), section 3. Weights:
    ALIP (Yang et al. 2023, arXiv:2308.08428).
    """
    return tiled(InfoNce(smoothing, decoupled, weights), images, texts, scale)


@dataclass
class InfoNce(Rule):
    """Cross-entropy of the softmax over each row and over each column."""

    smoothing: float = 0.0
    decoupled: bool = False
    weights: Tensor | None = None
    """Of this process's pairs."""
    column_weights: Tensor = field(init=False)
    """Of all processes' pairs."""
    row_sums: Tensor = field(init=False)
    column_sums: Tensor = field(init=False)
    """Logarithms of the denominators."""

    terms: ClassVar[int] = 2

    def value(self, matrix: Matrix) -> Float[Tensor, ""]:
        """Logarithms of the denominators, less the similarities that the targets weigh."""
        self.row_sums, self.column_sums = log_denominators(matrix, decoupled=self.decoupled)
        targeted = (1 - self.smoothing) * matrix.positives()
        losses = self.row_sums + self.column_sums[matrix.own] - 2 * targeted
        if self.weights is not None:
            self.weights = self.weights.to(losses)
            self.column_weights = gather(self.weights[:, None])[:, 0]
            losses = self.weights * losses
        loss = losses.mean() / 2
        return loss - self.smoothing * self.mean(matrix) if self.smoothing else loss

    def gradient(self, matrix: Matrix, tile: Tensor, rows: slice) -> Float[Tensor, "rows all"]:
        """Softmax less target, over rows and over columns, each weighted as its pair is."""
        gradients = (tile - self.row_sums[rows, None]).exp_()
        of_columns = (tile - self.column_sums).exp_()
        targets: Tensor | float = 2.0
        if self.weights is not None:
            of_rows = self.weights[rows, None]
            gradients *= of_rows
            of_columns *= self.column_weights
            targets = 2 * self.weights[rows]
        gradients += of_columns
        positive = matrix.diagonal(gradients, rows)
        if self.decoupled:
            positive.zero_()
        positive.sub_((1 - self.smoothing) * targets)
        if self.smoothing:
            spread = 2.0 if self.weights is None else of_rows + self.column_weights
            gradients -= self.smoothing / len(matrix.texts) * spread
        return gradients

    def mean(self, matrix: Matrix) -> Float[Tensor, ""]:
        """The mean of all elements, each by the mean weight of its row's and its column's pair."""
        if self.weights is None:
            return matrix.mean()
        by_row = replace(
            matrix, images=self.weights[:, None] * matrix.images.to(matrix.scale.dtype)
        )
        by_column = replace(
            matrix, texts=self.column_weights[:, None] * matrix.texts.to(matrix.scale.dtype)
        )
        return (by_row.mean() + by_column.mean()) / 2


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
