"""How a model compares what it has embedded: by the dot product, or by its checkpoint's similarity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipflow.evaluate.metrics import Embeddings, Matrix
from clipflow.model.similarity import Similarity

Classes = Callable[[Embeddings], Matrix]
"""[images, dim] -> similarities to each class, [images, classes]."""


@dataclass(frozen=True)
class Scores:
    """Queries [queries, size] and candidates [candidates, size] -> similarities [queries, candidates]."""

    similarity: Similarity | None = None
    """Where it is more than a dot product of unit vectors."""

    @classmethod
    def of(cls, similarity: Similarity | None) -> Scores:
        """A model's way to compare."""
        return cls(None if similarity is None or similarity.is_dot_product else similarity)

    def __call__(self, queries: Embeddings, candidates: Embeddings) -> Matrix:
        """Of arrays."""
        if self.similarity is None:
            found: Matrix = queries @ candidates.T
            return found
        device = "cuda" if torch.cuda.is_available() else "cpu"
        both = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (queries, candidates))
        of_both: Matrix = self.tensors(*both).cpu().numpy()
        return of_both

    @torch.inference_mode()
    def tensors(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Of tensors on one device."""
        if self.similarity is None:
            return queries @ candidates.T
        return self.similarity.scores(queries, candidates)

    def pairs(self, queries: Embeddings, candidates: Embeddings) -> Matrix:
        """[pairs], of each query to the candidate at its own place."""
        if self.similarity is None:
            found: Matrix = (queries * candidates).sum(axis=1)
            return found
        each = zip(queries[:, None], candidates[:, None], strict=True)
        return np.array([self(*pair)[0, 0] for pair in each], np.float32)

    def classes(self, prompts: Embeddings, counts: Sequence[int]) -> Classes:
        """Similarities to classes of so many prompts each, which stand one class after the other.

        A class is the normalised mean of its prompts' unit vectors (CLIP, section 3.1.4). Where vectors
        aren't compared by their dot product, its similarity is the mean of its prompts' (FILIP,
        arXiv:2111.07783, section 3.3 as recalled).
        """
        of_class = np.split(prompts, np.cumsum(counts)[:-1])
        if self.similarity is None:
            means = np.stack([part.mean(axis=0) for part in of_class])
            unit: Embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
            return lambda images: self(images, unit)
        return lambda images: np.stack([self(images, part).mean(axis=1) for part in of_class], 1)

    def summary(self, vectors: Embeddings) -> Embeddings:
        """[samples, dim], a unit vector of each sample: for FILIP the mean of its tokens."""
        if self.similarity is None:
            return vectors
        found: Embeddings = self.similarity.summary(torch.from_numpy(vectors)).numpy()
        return found


DOT_PRODUCT = Scores()
"""As CLIP compares."""
