"""Towers and contrastive loss in one module, so that DDP, FSDP and compile see one forward."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from clipflow.model.info_nce import info_nce
from clipflow.model.texts import Texts
from clipflow.model.towers import Towers


class Contrastive(nn.Module):
    """Towers with InfoNCE between each image and each of its texts, averaged over the texts.

    With one text this is CLIP's loss; with all of them it is LaCLIP's multi-text loss, in which
    negatives come from the same version of the text.
    """

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers

    def forward(
        self, images: UInt8[Tensor, "batch height width 3"], texts: Texts
    ) -> dict[str, Tensor]:
        """`loss`, to be minimised, and the `logit_scale` beside it."""
        image, text = self.towers.embed_images(images), self.towers.embed_texts(texts)
        scale = self.towers.scale
        losses = [info_nce(image, version, scale) for version in text.unbind(1)]
        return {"loss": torch.stack(losses).mean(), "logit_scale": scale.detach()}
