"""Codes that images and texts share: a sample is a weighted sum of the codes that its tokens ask for."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clipflow.model import tiled
from clipflow.model.similarity import Similarity
from clipflow.model.token_embeddings import Tokens


class Codebook(Similarity):
    """A sample's vector is the sum of codes, weighted by the sparsemax of their relevance.

    Source: Chen et al. 2023, *FDT* (arXiv:2303.14865), section 3.
    """

    kind = "codebook"
    temperature: Tensor
    """What relevances are divided by: the lower, the fewer codes have a weight."""

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(num_codes, dim) * dim**-0.5)
        self.register_buffer("temperature", torch.ones(()))

    @property
    def sizes(self) -> dict[str, int]:
        """Codes, and elements of each."""
        return {"num_codes": self.codes.shape[0], "dim": self.codes.shape[1]}

    def embed(self, tokens: Tokens) -> Float[Tensor, "*batch dim"]:
        """Unit length."""
        return functional.normalize(self.weights(tokens) @ self.codes, dim=-1)

    def weights(self, tokens: Tokens) -> Float[Tensor, "*batch codes"]:
        """Of each code, 0 or more with a sum of 1."""
        batch = tokens.present.shape[:-1]
        found = self._relevance(tokens.tokens.flatten(0, -3), tokens.present.flatten(0, -2))
        return sparsemax(found / self.temperature).view(*batch, -1)

    def _relevance(
        self, tokens: Float[Tensor, "batch length dim"], present: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch codes"]:
        """The largest product of a code with one of the tokens that are present.

        By some samples at a time, once more in backward: the products of all tokens are never held.
        """
        size = max(1, tiled.TILE_ELEMENTS // (tokens.shape[1] * len(self.codes)))
        parts = [
            checkpoint(_largest, *part, self.codes, use_reentrant=False, preserve_rng_state=False)
            for part in zip(tokens.split(size), present.split(size), strict=True)
        ]
        return torch.cat(parts)


def _largest(tokens: Tensor, present: Tensor, codes: Tensor) -> Tensor:
    products = (tokens @ codes.T).float()
    return products.masked_fill_(~present[:, :, None], -torch.inf).max(1).values


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ordered = scores.sort(-1, descending=True).values
        sums = ordered.cumsum(-1) - 1
        counts = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
        size = (counts * ordered > sums).sum(-1, keepdim=True)  # of the support
        weights = (scores - sums.gather(-1, size - 1) / size).clamp_(min=0)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        support = weights > 0
        inside = gradient.where(support, 0)
        mean = inside.sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        return torch.where(support, inside - mean, 0)


def sparsemax(scores: Float[Tensor, "*batch codes"]) -> Float[Tensor, "*batch codes"]:
    """The nearest point, by Euclid, of the simplex: like softmax, with exact zeros.

    Source: Martins & Astudillo 2016 (arXiv:1602.02068), algorithm 1; its gradient, equation 13 as recalled.
    """
    weights: Tensor = _Sparsemax.apply(scores)
    return weights
