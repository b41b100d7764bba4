"""What the image tower makes of an image before its projection into the space shared with texts."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor

from clipflow.errors import ParamsError
from clipflow.model.blocks import pooled
from clipflow.model.patches import embedded
from clipflow.model.towers import Towers


def width(towers: Towers, recipe: str) -> int:
    """Elements of an image's features. Raises ParamsError if the tower has no projection to leave out."""
    visual = towers.clip.visual
    if isinstance(visual, VisionTransformer) and visual.proj is not None:
        return int(visual.proj.shape[0])
    if isinstance(visual, TimmModel) and hasattr(visual.head, "proj"):
        return int(visual.head.proj.in_features)
    raise ParamsError(
        f"pretrain.architecture: recipe '{recipe}' needs an image tower that ends in a linear projection,"
        f" and that of '{towers.architecture}' doesn't; choose a ViT, such as ViT-B-16"
    )


def image_features(
    towers: Towers, images: UInt8[Tensor, "batch height width 3"]
) -> Float[Tensor, "batch width"]:
    """Features of any length, by chunks, of a tower that `width` accepts."""

    def embed(chunk: Tensor) -> Tensor:
        visual, pixels = towers.clip.visual, towers.normalise(chunk)
        features: Tensor
        if isinstance(visual, TimmModel):
            features = visual.head[:-1](visual.trunk(pixels))
        elif towers.pools_class_token:
            first = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
            features = visual.ln_post(
                pooled(visual.transformer, embedded(visual, pixels), first, causal=False)
            )
        else:
            features, _ = visual._pool(visual.transformer(embedded(visual, pixels)))
        return features

    return torch.cat([towers.cached(embed, c) for c, _ in towers.image_chunks(images, None)])
