"""DCL: CLIP's loss with the positive left out of the denominator.

The loss of an image is minus its similarity to its own text, plus the logarithm of the sum of exponentials
over the texts of the other images; of a text likewise. So the pull on a positive pair is the same however
near it is, -1/N per unit of its logit, where InfoNCE's vanishes as the pair becomes easy: small batches,
whose negatives are easy, learn more. The paper's loss is of two views of images and has their other views
among the negatives; here, as in CLIP, negatives are of the other modality alone.

Source: Yeh et al. 2022, *Decoupled Contrastive Learning* (arXiv:2110.06848), section 3.
"""

from __future__ import annotations

from torch import nn

from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Dcl(Recipe):
    """InfoNCE without negative-positive coupling."""

    status = "mechanism-verified"

    def objective(self, towers: Towers) -> nn.Module:
        """Decoupled InfoNCE between images and texts."""
        return Contrastive(towers, decoupled=True)
