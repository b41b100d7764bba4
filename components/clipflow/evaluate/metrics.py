"""Metrics: matrices in, numbers out. Pure NumPy; accuracies and recalls are fractions.

Ties go to the lower column, so that a collapsed model, for which everything is equally similar,
scores at chance and not at 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
Embeddings = NDArray[np.float32]


def ranks(similarity: Matrix, relevant: NDArray[np.bool_]) -> Indices:
    """The rank of each row's first relevant column, by falling similarity; 0 is the best.

    similarity: [queries, candidates], finite. relevant: the same shape, at least one per row.

        similarity        relevant     -> rank
        0.9  0.1  0.5     .  .  x         1     column 0 comes before the relevant column 2
        0.2  0.7  0.4     x  x  .         0     the better of two relevant columns counts
    """
    best = np.where(relevant, similarity, -np.inf).argmax(axis=1)[:, None]
    score = np.take_along_axis(similarity, best, axis=1)
    earlier = np.arange(similarity.shape[1]) < best
    before: NDArray[np.bool_] = (similarity > score) | ((similarity == score) & earlier)
    counts: Indices = before.sum(axis=1)
    return counts


def top_k_accuracy(similarity: Matrix, labels: Indices, k: int) -> float:
    """The share of samples whose own class is among the k most similar.

    similarity: [samples, classes]. labels: [samples], class indices.

        similarity        label    top 1   top 2
        0.9  0.1  0.5     2        wrong   right
        0.2  0.7  0.4     1        right   right     -> 0.5 for k=1, 1.0 for k=2
    """
    relevant = labels[:, None] == np.arange(similarity.shape[1])
    return recall_at(ranks(similarity, relevant), k)


def recall_at(ranks: Indices, k: int) -> float:
    """The share of queries answered by the first k candidates. [0, 3, 1] -> 2/3 for k=2."""
    return float((ranks < k).mean())


def confusion(actual: Indices, predicted: Indices, num_classes: int) -> Indices:
    """How often class `row` was taken for class `column`: [classes, classes] counts.

    actual [0, 0, 1], predicted [0, 1, 1] -> [[1, 1], [0, 1]]
    """
    counts = np.bincount(actual * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class_accuracy(confusion: Indices) -> NDArray[np.float64]:
    """The share of each class's samples that were recognised: [classes], NaN where there are none.

    [[1, 1], [0, 3]] -> [0.5, 1.0]
    """
    totals = confusion.sum(axis=1)
    shares = np.full(len(totals), np.nan)
    np.divide(confusion.diagonal(), totals, out=shares, where=totals > 0)
    return shares


def mean_per_class_accuracy(confusion: Indices) -> float:
    """The mean of the per-class accuracies, over the classes that have samples.

    [[1, 1], [0, 3]] -> 0.75 (plain accuracy: 0.8)
    """
    return float(np.nanmean(per_class_accuracy(confusion)))
