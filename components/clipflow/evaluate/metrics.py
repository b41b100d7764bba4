"""Metrics: matrices in, numbers out. Pure NumPy.

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


def class_ranks(similarity: Matrix, labels: Indices) -> Indices:
    """The rank of each sample's own class by falling similarity; 0 is the best.

    similarity: [samples, classes], finite. labels: [samples], class indices.

        similarity        label    rank
        0.9  0.1  0.5     2        1      column 0 comes before it
        0.2  0.7  0.4     1        0
    """
    own = np.take_along_axis(similarity, labels[:, None], axis=1)
    earlier = np.arange(similarity.shape[1]) < labels[:, None]
    before: NDArray[np.bool_] = (similarity > own) | ((similarity == own) & earlier)
    counts: Indices = before.sum(axis=1)
    return counts


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
