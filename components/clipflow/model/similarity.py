"""How images are compared with texts, where it isn't by the towers' own embeddings and the dot product.

An objective that compares otherwise has such an object as its `similarity`. It is trained with the towers,
saved beside them in the checkpoint, and what measures the checkpoint compares by it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from clipflow.model.token_embeddings import Tokens


class Similarity(nn.Module, ABC):
    """What is kept of a sample, as one vector, and how two such vectors are compared."""

    kind: ClassVar[str]
    """What the checkpoint calls it."""
    is_dot_product: ClassVar[bool] = True
    """Whether vectors have unit length and are compared by their dot product, as an index of them does."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """What to build it with again."""

    @abstractmethod
    def embed(self, tokens: Tokens) -> Float[Tensor, "*batch size"]:
        """A vector of each image or text; those of some are as long as the longest of them needs.

        A vector that is shorter than others goes on with zeros.
        """

    def scores(
        self, queries: Float[Tensor, "queries size"], candidates: Float[Tensor, "candidates other"]
    ) -> Float[Tensor, "queries candidates"]:
        """The similarity of each query to each candidate: in [-1, 1], and not always symmetric."""
        return queries @ candidates.T

    def summary(self, vectors: Float[Tensor, "batch size"]) -> Float[Tensor, "batch dim"]:
        """One vector of unit length for all of a sample, for what needs features of a fixed size."""
        return vectors
