"""Towers and contrastive loss in one module, so that DDP, FSDP and compile see one forward."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipflow.model.batch import Batch
from clipflow.model.info_nce import info_nce
from clipflow.model.towers import Towers


class Contrastive(nn.Module):
    """Towers with a contrastive loss between each image and each of its texts, averaged over the texts.

    With one text InfoNCE is CLIP's loss; with all of them it is LaCLIP's multi-text loss, in which
    negatives come from the same version of the text. `smoothing` and `decoupled` are `info_nce`'s; another
    loss of pairs takes the place of `version_loss`.
    """

    def __init__(self, towers: Towers, *, smoothing: float = 0.0, decoupled: bool = False) -> None:
        super().__init__()
        self.towers, self.smoothing, self.decoupled = towers, smoothing, decoupled

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be minimised, and the `logit_scale` beside it."""
        image, text = self.embed(batch)
        return {"loss": self.loss(image, text), "logit_scale": self.towers.scale.detach()}

    def embed(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch texts dim"]]:
        """What is compared of images and texts."""
        image = self.towers.embed_images(batch.images, batch.patches)
        return image, self.towers.embed_texts(batch.texts)

    def loss(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch texts dim"]
    ) -> Float[Tensor, ""]:
        """The loss of the embeddings: the mean over the versions of the text."""
        return torch.stack([self.version_loss(image, one) for one in text.unbind(1)]).mean()

    def version_loss(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """The loss of images and one version of their texts."""
        return info_nce(
            image, text, self.towers.scale, smoothing=self.smoothing, decoupled=self.decoupled
        )
