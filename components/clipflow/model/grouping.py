"""Which patches of an image a text is about, and what they are together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def group_weights(
    patches: Float[Tensor, "batch patches dim"],
    texts: Float[Tensor, "batch texts dim"],
    threshold: float | None,
) -> Float[Tensor, "batch texts patches"]:
    """Each text's share of attention for each patch of its image; over the patches they add up to 1.

    A patch's cosine with the text goes from 0, at the image's least similar patch, to 1, at the most
    similar one; below the `threshold`, in [0, 1) and by default 1 over the number of patches, it is 0. All
    patches have equal shares if they are equally similar. Gradients go through the shares.

    Source: Zheng et al. 2024 (DreamLIP, arXiv:2403.17007), section 3, subcaption-specific grouping.
    """
    exact = torch.promote_types(patches.dtype, torch.float32)
    unit = functional.normalize(patches.to(exact), dim=2)
    cosines = functional.normalize(texts.to(exact), dim=2) @ unit.mT
    lowest, highest = cosines.aminmax(dim=2, keepdim=True)
    spread = highest - lowest
    tiny = torch.finfo(exact).eps
    relative = torch.where(spread > tiny, (cosines - lowest) / spread.clamp(min=tiny), 1.0)
    least = 1 / patches.shape[1] if threshold is None else threshold
    kept = torch.where(relative < least, 0.0, relative)
    return kept / kept.sum(2, keepdim=True)


def grouped_patches(
    patches: Float[Tensor, "batch patches dim"],
    texts: Float[Tensor, "batch texts dim"],
    threshold: float | None,
) -> Float[Tensor, "batch texts dim"]:
    """Unit-length embeddings of what each text is about: its image's patches, by `group_weights`."""
    weights = group_weights(patches, texts, threshold)
    unit = functional.normalize(patches.to(weights.dtype), dim=2)
    return functional.normalize(weights @ unit, dim=2)
