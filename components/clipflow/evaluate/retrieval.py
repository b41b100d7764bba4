"""Image-text retrieval by cosine similarity, both ways, with one or several captions per image.

A query counts as answered at k if any of its own partners is among the k most similar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate import metrics
from clipflow.evaluate.metrics import Embeddings, Indices

Direction = Literal["image_to_text", "text_to_image"]
DIRECTIONS: tuple[Direction, ...] = ("image_to_text", "text_to_image")
BLOCK = 1024
"""Queries ranked at once: bounds memory to BLOCK x candidates."""


@dataclass(frozen=True)
class Retrieval:
    """What one task gave: its metrics, and all that the report draws."""

    task: str
    captions: list[str]
    image_of_caption: Indices
    """[captions], the row of each caption's image."""
    images: Embeddings
    """[images, dim], unit vectors."""
    texts: Embeddings
    """[captions, dim], unit vectors."""
    ranks: dict[Direction, Indices]
    """[queries], the rank of the best right answer; 0 is the best."""
    metrics: dict[str, float]
    """By name within the task: `image_to_text/recall_at_1`, ..."""

    def nearest(self, direction: Direction, query: int, k: int) -> Indices:
        """The rows of the k candidates most similar to one query, best first."""
        if direction == "image_to_text":
            similarity = self.texts @ self.images[query]
        else:
            similarity = self.images @ self.texts[query]
        return np.argsort(-similarity, kind="stable")[:k]

    def is_right(self, direction: Direction, query: int, candidate: int) -> bool:
        """Whether image and caption belong together."""
        if direction == "image_to_text":
            return bool(self.image_of_caption[candidate] == query)
        return bool(self.image_of_caption[query] == candidate)

    def chance(self, direction: Direction, k: int) -> float:
        """R@k of a random order, in expectation."""
        num_images, num_captions = len(self.images), len(self.captions)
        if direction == "text_to_image":
            return min(1.0, k / num_images)
        counts = np.bincount(self.image_of_caption, minlength=num_images)
        drawn = np.arange(min(k, num_captions))[:, None]
        left = np.clip(num_captions - counts - drawn, 0, None) / (num_captions - drawn)
        return float(1 - left.prod(axis=0).mean())


def retrieve(
    task: Task,
    encode: Callable[[Sequence[str]], Embeddings],
    images: Embeddings,
    captions: Sequence[Sequence[str]],
    recall_at: Sequence[int],
) -> Retrieval:
    """Measure one task.

    images: [images, dim], unit vectors. captions: one or more of each image.
    """
    flat = [text for texts in captions for text in texts]
    owner = np.repeat(np.arange(len(images)), [len(texts) for texts in captions])
    texts = encode(flat)
    own = np.arange(len(images))
    ranks: dict[Direction, Indices] = {
        "image_to_text": _ranks(images, texts, own, owner),
        "text_to_image": _ranks(texts, images, owner, own),
    }
    found = {
        f"{direction}/recall_at_{k}": metrics.recall_at(ranks[direction], k)
        for direction in DIRECTIONS
        for k in recall_at
    }
    return Retrieval(task.name, flat, owner, images, texts, ranks, found)


def _ranks(queries: Embeddings, candidates: Embeddings, of: Indices, owner: Indices) -> Indices:
    parts = []
    for start in range(0, len(queries), BLOCK):
        block = slice(start, start + BLOCK)
        relevant = of[block, None] == owner[None, :]
        parts.append(metrics.ranks(queries[block] @ candidates.T, relevant))
    return np.concatenate(parts)


def captions(task: Task, split: str, notes: Sequence[bytes]) -> list[list[str]]:
    """The captions of each image: the lines of its `<key>.txt`. Raises ArtifactError if none."""
    found = [[line for line in note.decode().splitlines() if line.strip()] for note in notes]
    for number, texts in enumerate(found):
        if not texts:
            raise ArtifactError(
                f"{task.folder / split}: sample {number} of task '{task.name}' has no caption; "
                "make it again with 'clipflow ingest'"
            )
    return found
