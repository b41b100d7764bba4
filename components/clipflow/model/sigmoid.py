"""The pairwise sigmoid loss: every image with every text, each a question of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clipflow.model.tiled import Matrix, Rule, tiled


def sigmoid_loss(
    images: Float[Tensor, "local dim"],
    texts: Float[Tensor, "local dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Sigmoid loss of this process's rows of the global batch, whose contract is that of `tiled`.

    The logit of a pair is scale x cosine + bias. The loss is the sum over all pairs of the binary
    cross-entropy of whether they belong together, divided by the number of images.

    Source: Zhai et al. 2023 (SigLIP, arXiv:2303.15343), section 3.2, equation for the loss, and 3.3, where
    it is computed by chunks.
    """
    return tiled(Sigmoid(bias.detach()), images, texts, scale, bias)


@dataclass
class Sigmoid(Rule):
    """Binary cross-entropy of each element."""

    bias: Float[Tensor, ""]

    terms: ClassVar[int] = 1

    def value(self, matrix: Matrix) -> Float[Tensor, ""]:
        """The sum of softplus of the logits, those of positives negated."""
        total = matrix.scale.new_zeros(())
        for rows, tile in matrix.tiles():
            tile += self.bias
            matrix.diagonal(tile, rows).neg_()
            total += functional.softplus(tile).sum()
            del tile
        return total / len(matrix.images)

    def gradient(self, matrix: Matrix, tile: Tensor, rows: slice) -> Float[Tensor, "rows all"]:
        """The probability of being wrong, with the sign that makes it less."""
        weights = tile + self.bias
        positive = matrix.diagonal(weights, rows)
        positive.neg_()
        weights.sigmoid_()
        positive.neg_()
        return weights
