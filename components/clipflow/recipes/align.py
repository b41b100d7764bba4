"""ALIGN: CLIP's loss with smoothed targets, for noisy captions.

A share of each target, `smoothing`, is spread evenly over the whole batch: the cross-entropy of an image is
minus (1 - smoothing) times the log probability of its own text, minus smoothing times the mean log
probability over all texts; of a text likewise. With a smoothing of 0 this is CLIP. The paper's other half,
noisy alt-texts filtered by their frequency alone, is a choice of data; its towers are a choice of
`pretrain.architecture`.

Source: Jia et al. 2021, *Scaling Up Visual and Vision-Language Representation Learning With Noisy Text
Supervision* (arXiv:2102.05918), section 5.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Align(Recipe):
    """InfoNCE with label smoothing."""

    status = "mechanism-verified"

    smoothing: float = Field(ge=0, lt=1)
    """Share of each target that is spread over the batch. ALIGN: 0.1."""

    def objective(self, towers: Towers) -> nn.Module:
        """Smoothed InfoNCE between images and texts."""
        return Contrastive(towers, smoothing=self.smoothing)
