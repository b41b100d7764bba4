"""SLIP: CLIP's loss, and self-supervision of the image tower by two more views of each image.

Each view is a small random crop of the image with its colours jittered or gone, blurred and mirrored by
chance. A head on the tower's features before their projection embeds it, and SimCLR's loss asks which of
all views in the batch is the other one of the same image. The loss is CLIP's, of the undistorted crop, plus
`self_supervision` times SimCLR's. The head is not part of the checkpoint.

Source: Mu et al. 2022, *SLIP: Self-supervision meets Language-Image Pre-training* (arXiv:2112.12750),
section 3.
"""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from clipflow.errors import ParamsError
from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.distortions import distorted_view
from clipflow.model.image_features import image_features, width
from clipflow.model.nt_xent import nt_xent
from clipflow.model.projection_head import ProjectionHead
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Slip(Recipe):
    """CLIP and SimCLR together; the image tower sees three images of a pair instead of one."""

    status = "toy-gain"
    num_views: ClassVar[int] = 2

    self_supervision: float = Field(ge=0)
    """Weight of SimCLR's loss beside CLIP's. SLIP: 1."""
    self_supervision_temperature: float = Field(gt=0)
    """SimCLR's temperature, which is not learned. SLIP: 0.1."""
    head_hidden: int = Field(ge=1)
    """Width of the head's two hidden layers. SLIP: 4096."""
    head_dim: int = Field(ge=1)
    """Elements of the embeddings that views are compared by. SLIP: 256."""

    def view(
        self, image: Image.Image, size_px: int, rng: random.Random
    ) -> UInt8[np.ndarray, "size size 3"]:
        """SimCLR's distortions."""
        return distorted_view(image, size_px, rng)

    def objective(self, towers: Towers) -> nn.Module:
        """InfoNCE between images and texts and NT-Xent between views.

        Raises ParamsError for an image tower that is locked or has no projection.
        """
        if not any(parameter.requires_grad for parameter in towers.clip.visual.parameters()):
            raise ParamsError(
                f"pretrain.locked: recipe '{self.name}' trains the image tower by its views, and it is"
                " locked; take 'image' out, or choose a recipe without views, such as clip"
            )
        head = ProjectionHead(width(towers, self.name), self.head_hidden, self.head_dim)
        return SelfSupervised(
            towers, head, self.self_supervision, self.self_supervision_temperature
        )


class SelfSupervised(Contrastive):
    """Towers with CLIP's loss, and a head with SimCLR's."""

    def __init__(
        self, towers: Towers, head: ProjectionHead, weight: float, temperature: float
    ) -> None:
        super().__init__(towers)
        self.head, self.weight, self.temperature = head, weight, temperature

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and its `contrastive_loss` and `self_supervision_loss` before they are weighted."""
        assert batch.views is not None
        contrast = super().forward(batch)
        embedded = self.head(image_features(self.towers, batch.views.flatten(0, 1)))
        first, second = embedded.unflatten(0, (-1, 2)).unbind(1)
        supervision = nt_xent(first, second, self.temperature)
        return {
            **contrast,
            "loss": contrast["loss"] + self.weight * supervision,
            "contrastive_loss": contrast["loss"].detach(),
            "self_supervision_loss": supervision.detach(),
        }
