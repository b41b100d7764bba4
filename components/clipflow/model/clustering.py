"""Clusters of embeddings, and their means."""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from clipflow.model.tiled import rank


def clustered(
    embeddings: Float[Tensor, "num dim"],
    num_clusters: int,
    *,
    iterations: int,
    seed: int,
    components: int | None = None,
) -> Int[Tensor, " num"]:
    """The cluster of each row, by k-means (scikit-learn's, which begins by k-means++).

    All processes have the same rows; the first computes, all get the result. Of rows with more elements
    than `components`, only so many principal components are clustered. There are no more clusters than
    rows, and fewer distinct rows than clusters leave some clusters empty.
    """
    labels = torch.empty(len(embeddings), dtype=torch.long, device=embeddings.device)
    if rank() == 0:
        rows = embeddings.double().cpu().numpy()
        if components and components < min(rows.shape):
            rows = PCA(components, svd_solver="covariance_eigh").fit_transform(rows)
        num = min(num_clusters, len(rows))
        kmeans = KMeans(num, n_init=1, max_iter=iterations, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels.copy_(torch.from_numpy(kmeans.fit_predict(rows)))
    if dist.is_initialized():
        dist.broadcast(labels, 0)
    return labels


def means(
    embeddings: Float[Tensor, "num dim"], labels: Int[Tensor, " num"], num_clusters: int
) -> Float[Tensor, "clusters dim"]:
    """The mean of each cluster's rows; that of an empty cluster is 0."""
    sums = embeddings.new_zeros(num_clusters, embeddings.shape[1]).index_add_(0, labels, embeddings)
    sizes = labels.bincount(minlength=num_clusters).clamp(min=1)
    return sums / sizes[:, None]
