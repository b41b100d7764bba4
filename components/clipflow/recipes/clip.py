"""CLIP: each image against its own caption.

Symmetric InfoNCE over the global batch with a learned temperature.

Source: Radford et al. 2021, *Learning Transferable Visual Models From Natural Language Supervision*
(arXiv:2103.00020), section 2.3.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe, Status


class Clip(Recipe):
    """The baseline: rewrites are ignored unless `pretrain.texts` asks for them."""

    status: ClassVar[Status] = "mechanism-verified"

    def objective(self, towers: Towers) -> nn.Module:
        """InfoNCE between images and texts."""
        return Contrastive(towers)
