"""Contrastive attraction and contrastive repulsion between images and texts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipflow.model.info_nce import log_denominators
from clipflow.model.tiled import Matrix, Rule, sum_over_processes, tiled


def attraction(
    images: Float[Tensor, "local dim"], texts: Float[Tensor, "local texts dim"], temperature: float
) -> Float[Tensor, ""]:
    """Mean squared distance of unit vectors that belong together, farther ones weighted up.

    An image's positives are its texts, weighted by the softmax over them of temperature x squared distance;
    a text's only positive is its image. Both directions are averaged.

    Source: Zheng et al. 2021 (CACR, arXiv:2105.03746), section 3, contrastive attraction.
    """
    exact = torch.promote_types(images.dtype, torch.float32)
    distances = 2 - 2 * (images[:, None].to(exact) * texts.to(exact)).sum(2)
    weights = (temperature * distances).softmax(1)
    return ((weights * distances).sum(1) + distances.mean(1)).mean() / 2


def repulsion(
    images: Float[Tensor, "local dim"], texts: Float[Tensor, "local dim"], temperature: float
) -> Float[Tensor, ""]:
    """Minus the mean squared distance of pairs that don't belong together, nearer ones weighted up.

    An image's negatives are the texts of all other images, weighted by the softmax over them of
    -temperature x squared distance; a text's likewise. Both directions are averaged; the contract is that
    of `tiled`, with a global batch of two or more. The weights have their part in the gradient.

    Source: Zheng et al. 2021 (CACR, arXiv:2105.03746), section 3, contrastive repulsion.
    """
    # A squared distance is 2 - 2 cosine.
    return tiled(Repulsion(temperature), images, texts, images.new_tensor(2.0)) - 2


@dataclass
class Repulsion(Rule):
    """The mean of similarities under their softmax, over each row and over each column."""

    temperature: float
    row_sums: Tensor = field(init=False)
    column_sums: Tensor = field(init=False)
    """Logarithms of the denominators of the weights."""
    row_means: Tensor = field(init=False)
    column_means: Tensor = field(init=False)
    """Means under the weights."""

    terms: ClassVar[int] = 2

    def value(self, matrix: Matrix) -> Float[Tensor, ""]:
        """First the denominators, then the means."""
        self.row_sums, self.column_sums = log_denominators(
            replace(matrix, scale=self.temperature * matrix.scale), decoupled=True
        )
        self.row_means = torch.empty_like(self.row_sums)
        self.column_means = torch.zeros_like(self.column_sums)
        for rows, tile in matrix.tiles():
            of_rows, of_columns = self.weights(matrix, tile, rows)
            self.row_means[rows] = (of_rows * tile).sum(1)
            self.column_means += (of_columns * tile).sum(0)
            del tile
        self.column_means = sum_over_processes(self.column_means)
        return (self.row_means + self.column_means[matrix.own]).mean() / 2

    def gradient(self, matrix: Matrix, tile: Tensor, rows: slice) -> Float[Tensor, "rows all"]:
        """Of a mean under a softmax: the weight, times 1 + temperature x (element less mean)."""
        of_rows, of_columns = self.weights(matrix, tile, rows)
        of_rows *= 1 + self.temperature * (tile - self.row_means[rows, None])
        of_columns *= 1 + self.temperature * (tile - self.column_means)
        return of_rows.add_(of_columns)

    def weights(self, matrix: Matrix, tile: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """A tile's weights over its rows and over its columns; pairs that belong together have none."""
        of_rows = (self.temperature * tile - self.row_sums[rows, None]).exp_()
        of_columns = (self.temperature * tile - self.column_sums).exp_()
        for weights in (of_rows, of_columns):
            matrix.diagonal(weights, rows).zero_()
        return of_rows, of_columns
