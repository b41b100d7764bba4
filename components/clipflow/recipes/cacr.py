"""CACR: attract farther positives more, repel nearer negatives more.

The loss of an image is the mean squared distance to its own texts, weighted by the softmax over them of
attraction x squared distance, minus the mean squared distance to the texts of the other images, weighted
by the softmax over them of minus repulsion x squared distance; of a text likewise. Gradients go through the
weights, as in the authors' code. With both at 0 the weights are uniform.

The paper is about images alone, where an image has several views. Here an image's positives are its texts,
so that attraction is of effect with several of them (`pretrain.texts`: a number); a text has one image, and
a negative is of the other modality and the same version of the text. There is no logit scale to learn: the
checkpoint's stays that of `temperature_init`, by which it only turns cosines into probabilities.

Source: Zheng et al. 2021, *Contrastive Attraction and Contrastive Repulsion for Representation Learning*
(arXiv:2105.03746), section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from clipflow.model.attraction import attraction, repulsion
from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Cacr(Recipe):
    """Attraction and repulsion by distance, without a softmax between positives and negatives."""

    status = "mechanism-verified"

    attraction: float = Field(ge=0)
    """How much farther positives are weighted up, per squared distance: the paper's t+."""
    repulsion: float = Field(ge=0)
    """How much nearer negatives are weighted up, per squared distance: the paper's t-."""

    def objective(self, towers: Towers) -> nn.Module:
        """Attraction and repulsion between images and texts; the towers' scale is kept as it is."""
        towers.clip.logit_scale.requires_grad_(False)
        return AttractionRepulsion(towers, self.attraction, self.repulsion)


class AttractionRepulsion(Contrastive):
    """Towers with attraction to all texts together, and repulsion averaged over their versions."""

    def __init__(self, towers: Towers, attraction: float, repulsion: float) -> None:
        super().__init__(towers)
        self.attraction, self.repulsion = attraction, repulsion

    def loss(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch texts dim"]
    ) -> Float[Tensor, ""]:
        """Attraction plus repulsion, in squared distance of unit vectors."""
        repelled = [repulsion(image, one, self.repulsion) for one in text.unbind(1)]
        return attraction(image, text, self.attraction) + torch.stack(repelled).mean()
