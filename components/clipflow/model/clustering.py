"""Clusters of embeddings, and their means."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor


def clustered(
    embeddings: Float[Tensor, "num dim"], num_clusters: int, *, iterations: int, seed: int
) -> Int[Tensor, " num"]:
    """The cluster of each row, by k-means (scikit-learn's, which begins by k-means++).

    Fewer distinct rows than clusters leave some clusters empty.
    """
    kmeans = KMeans(num_clusters, n_init=1, max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = kmeans.fit_predict(embeddings.double().cpu().numpy())
    return torch.from_numpy(labels).long()


def means(
    embeddings: Float[Tensor, "num dim"], labels: Int[Tensor, " num"], num_clusters: int
) -> Float[Tensor, "clusters dim"]:
    """The mean of each cluster's rows; that of an empty cluster is 0."""
    sums = embeddings.new_zeros(num_clusters, embeddings.shape[1]).index_add_(0, labels, embeddings)
    sizes = labels.bincount(minlength=num_clusters).clamp(min=1)
    return sums / sizes[:, None]
