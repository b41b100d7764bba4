"""The rows of a matrix of unit vectors that are nearest to one, by FAISS.

All rows are looked at. Half precision, which is read several times as fast, finds more candidates than are
asked for, and exact cosines choose among them: it moves a cosine by 1e-4 at most.
"""

from __future__ import annotations

from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Float32

from clipflow.search.embeddings import Embeddings

CANDIDATES = 4
"""How many for each image that is asked for."""


class Hit(NamedTuple):
    """An image that was found."""

    number: int
    cosine: float


class Index:
    """Images by their embeddings."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.numbers = embeddings.numbers
        self.mean: Float32[np.ndarray, " dim"] = embeddings.vectors.mean(axis=0)
        """Its product with a unit vector is the mean cosine over all images."""
        self._half = faiss.IndexScalarQuantizer(
            embeddings.vectors.shape[1],
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
        )
        self._index = faiss.IndexRefineFlat(self._half)
        self._index.k_factor = CANDIDATES
        self._index.add(np.ascontiguousarray(embeddings.vectors))

    def __len__(self) -> int:
        return len(self.numbers)

    def nearest(self, vector: Float32[np.ndarray, " dim"], k: int) -> list[Hit]:
        """The `k` images nearest to a unit vector, or all if there are fewer, best first."""
        cosines, rows = self._index.search(vector[None], min(k, len(self)))
        return [
            Hit(int(self.numbers[row]), float(cosine))
            for row, cosine in zip(rows[0], cosines[0], strict=True)
        ]

    def vector(self, number: int) -> Float32[np.ndarray, " dim"] | None:
        """The embedding of an image, or None if it has none."""
        row = int(np.searchsorted(self.numbers, number))
        if row == len(self) or self.numbers[row] != number:
            return None
        return np.asarray(self._index.reconstruct(row))
