"""CyCLIP: CLIP's loss, and cosines that stay the same when images and texts are interchanged.

Two terms stand beside CLIP's loss. Cross-modal consistency is the sum over all pairs (j, k) of the batch,
divided by the number of images, of the squared difference between the cosine of image j with text k and
that of image k with text j; in-modal consistency is that of the squared difference between the cosine of
images j and k and that of texts j and k. Both are of cosines, in which the logit scale has no part. With
several texts of an image they are averaged over the versions, as CLIP's loss is.

Source: Goel et al. 2022, *CyCLIP: Cyclic Contrastive Language-Image Pretraining* (arXiv:2205.14459),
section 3.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from clipflow.model.batch import Batch
from clipflow.model.consistency import cross_modal, in_modal
from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Cyclip(Recipe):
    """InfoNCE with two terms of consistency."""

    status = "mechanism-verified"

    cross_modal: float = Field(ge=0)
    """Weight of cross-modal consistency beside CLIP's loss. CyCLIP: 0.25."""
    in_modal: float = Field(ge=0)
    """Weight of in-modal consistency beside CLIP's loss. CyCLIP: 0.25."""

    def objective(self, towers: Towers) -> nn.Module:
        """InfoNCE between images and texts, and both terms."""
        return Cyclic(towers, self.cross_modal, self.in_modal)


class Cyclic(Contrastive):
    """Towers with InfoNCE and two weighted terms of consistency, of the versions of the text averaged."""

    def __init__(self, towers: Towers, cross_weight: float, in_weight: float) -> None:
        super().__init__(towers)
        self.cross_weight, self.in_weight = cross_weight, in_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, the `logit_scale`, and the loss's three parts before they are weighted."""
        image, text = self.embed(batch)
        contrast, versions = self.loss(image, text), text.unbind(1)
        across = torch.stack([cross_modal(image, one) for one in versions]).mean()
        within = torch.stack([in_modal(image, one) for one in versions]).mean()
        return {
            "loss": contrast + self.cross_weight * across + self.in_weight * within,
            "logit_scale": self.towers.scale.detach(),
            "contrastive_loss": contrast.detach(),
            "cross_modal_loss": across.detach(),
            "in_modal_loss": within.detach(),
        }
