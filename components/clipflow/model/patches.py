"""What an open_clip ViT makes of fewer patches: of some of an image's, or of a smaller image's."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional


def embedded(
    visual: VisionTransformer,
    images: Float[Tensor, "batch 3 height width"],
    patches: Int[Tensor, "batch kept"] | None = None,
) -> Float[Tensor, "batch tokens width"]:
    """The class token and the patches, row by row, as the transformer takes them.

    Of each image only `patches`, by their numbers, or all of them. A smaller image has the positions of the
    whole, interpolated.
    """
    if patches is None and tuple(images.shape[2:]) == tuple(visual.image_size):
        out: Tensor = visual._embeds(images)
        return out
    tokens = visual.conv1(images)
    positions = interpolated(
        visual.positional_embedding, visual.grid_size, (tokens.shape[2], tokens.shape[3])
    ).to(tokens.dtype)
    tokens = tokens.flatten(2).transpose(1, 2) + positions[1:]
    if patches is not None:
        tokens = tokens[torch.arange(len(patches), device=patches.device)[:, None], patches]
    first = (visual.class_embedding.to(tokens.dtype) + positions[0]).expand(len(tokens), 1, -1)
    normed: Tensor = visual.ln_pre(torch.cat([first, tokens], dim=1))
    return normed


def interpolated(
    positions: Float[Tensor, "from width"], grid: tuple[int, int], to: tuple[int, int]
) -> Float[Tensor, "to width"]:
    """Positions of a class token and of a grid of patches, made bicubically for another grid."""
    if tuple(grid) == tuple(to):
        return positions
    square = positions[1:].T.unflatten(1, grid)[None]
    resized = functional.interpolate(square, to, mode="bicubic", antialias=True)
    return torch.cat([positions[:1], resized[0].flatten(1).T])
