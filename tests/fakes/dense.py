"""The losses of pairs by their usual formulas, from the whole matrix of one process."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def batch(
    num: int, dim: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Images, texts, a scale and a bias, all wanting gradients."""
    generator = torch.Generator().manual_seed(seed)
    unit = [
        functional.normalize(torch.randn(num, dim, generator=generator, dtype=dtype), dim=1)
        for _ in range(2)
    ]
    scalars = torch.tensor(14.3, dtype=dtype), torch.tensor(-6.5, dtype=dtype)
    return [value.requires_grad_() for value in (*unit, *scalars)]


def info_nce(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    *,
    smoothing: float = 0.0,
    decoupled: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Weighted cross-entropy of smoothed targets; decoupled, without the diagonal in the denominators."""
    logits, own = scale * images @ texts.T, torch.eye(len(images), dtype=torch.bool)
    targets = (1 - smoothing) * own.to(logits) + smoothing / len(images)
    denominators = logits.masked_fill(own, -torch.inf) if decoupled else logits
    losses = [denominators.logsumexp(dim) - (targets * logits).sum(dim) for dim in (0, 1)]
    return (torch.stack(losses) * (1.0 if weights is None else weights)).mean()


def sigmoid(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Minus the logarithm of the probability of each pair's label."""
    labels = 2 * torch.eye(len(images), dtype=images.dtype) - 1
    logits = scale * images @ texts.T + bias
    return -functional.logsigmoid(labels * logits).sum() / len(images)


def repulsion(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Minus the squared distances to all others, weighted by their softmax, over rows and columns."""
    distances = 2 - 2 * images @ texts.T  # of unit vectors
    others = ~torch.eye(len(images), dtype=torch.bool)
    losses = []
    for each in (distances, distances.T):
        negatives = each[others].view(len(images), -1)
        weights = (-temperature * negatives).softmax(1)
        losses.append(-(weights * negatives).sum(1).mean())
    return torch.stack(losses).mean()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each of the 2N views, whose own column is masked, over the other 2N - 1."""
    views = torch.cat([first, second])
    logits = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(views)).roll(len(first)))


def cross_modal(images: Tensor, texts: Tensor) -> Tensor:
    """Squared differences of the cosines of images with texts and of texts with images, per image."""
    cosines = images @ texts.T
    return (cosines - cosines.T).square().sum() / len(images)


def in_modal(images: Tensor, texts: Tensor) -> Tensor:
    """Squared differences of the cosines of images and of texts, each with their like, per image."""
    return (images @ images.T - texts @ texts.T).square().sum() / len(images)


def tokens(num: int, patches: int = 5, words: int = 6, dim: int = 8, seed: int = 0) -> list[Tensor]:
    """Unit tokens of images and of texts, [num, length, dim], wanting gradients; texts are padded."""
    generator = torch.Generator().manual_seed(seed)
    images, texts = (
        functional.normalize(torch.randn(num, length, dim, generator=generator), dim=2)
        for length in (patches, words)
    )
    lengths = 1 + torch.arange(num) % words
    texts *= (torch.arange(words) < lengths[:, None])[:, :, None]
    return [images.requires_grad_(), texts.requires_grad_()]


def token_wise(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE of the mean over tokens of the largest cosine with a token of the other, pair by pair."""
    to_texts, to_images = (torch.empty(len(images), len(texts)) for _ in range(2))
    for row, image in enumerate(images):
        for column, padded in enumerate(texts):
            cosines = image @ padded[padded.detach().any(1)].T
            to_texts[row, column] = cosines.max(1).values.mean()
            to_images[row, column] = cosines.max(0).values.mean()
    own = torch.arange(len(images))
    rows = functional.cross_entropy(scale * to_texts, own)
    return (rows + functional.cross_entropy(scale * to_images.T, own)) / 2
