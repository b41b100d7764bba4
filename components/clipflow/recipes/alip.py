"""ALIP: each image against its caption and a synthetic one, weighted by how they agree.

The loss is the mean of two InfoNCEs, of images with captions and of images with synthetic captions, each
image's and each text's cross-entropy multiplied by its pair's weight. A pair's synthetic caption is its
first rewrite, which the generator `captioner` makes from the image; whichever generator wrote it is taken
for it. A sample's weight is below 1 where its two texts agree less than is usual in training (language
consistency gate), by how much less; there, each of its two pairs is weighted besides by how well image and
text agree, compared with what is usual (description consistency gate): see `model/gates.py`. As in the
authors' code the usual is a moving average that starts at 1, so that at first all samples count little,
and pair gates are not clipped at 1. The authors add the two losses; here they are averaged. The loss that
is logged moves with the weights beside it, and is not to be compared with other recipes'.

A pair without rewrites shows its caption twice: it counts as in `clip`, and has no part in the averages.

Source: Yang et al. 2023, *ALIP: Adaptive Language-Image Pre-training with Synthetic Caption*
(arXiv:2308.08428), section 3.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.gates import ConsistencyGates
from clipflow.model.info_nce import info_nce
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe, TextPolicy


class Alip(Recipe):
    """Caption and synthetic caption, with a weight for each pair."""

    status = "mechanism-verified"

    momentum: float = Field(ge=0, lt=1)
    """Of the moving averages, per step."""
    average_init: float = Field(ge=-1, le=1)
    """Cosine from which the averages start. From 1 all gates open over the first steps, some
    1 / (1 - momentum) of them; from -1 all are open at first."""
    sample_sharpness: float = Field(ge=0)
    """How fast a sample's weight falls below the average, per cosine: the paper's gamma_s. 0: no gate."""
    pair_sharpness: float = Field(ge=0)
    """How fast a pair's weight falls or rises in such a sample: the paper's gamma_p. 0: no gate."""

    @property
    def own_texts(self) -> TextPolicy:
        """The caption and the first rewrite."""
        return 2

    def objective(self, towers: Towers) -> nn.Module:
        """Two gated InfoNCEs."""
        gates = ConsistencyGates(
            momentum=self.momentum,
            start=self.average_init,
            sample_sharpness=self.sample_sharpness,
            pair_sharpness=self.pair_sharpness,
        )
        return GatedContrastive(towers, gates)


class GatedContrastive(Contrastive):
    """Towers with InfoNCE of weighted pairs, averaged over the two texts."""

    def __init__(self, towers: Towers, gates: ConsistencyGates) -> None:
        super().__init__(towers)
        self.gates = gates

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be minimised; beside it the scale, mean weights, and the usual cosine of the texts."""
        (image, text), scale = self.embed(batch), self.towers.scale
        texts = text.unbind(1)
        weights = self.gates(image, *texts, compared=~batch.texts.repeated()[:, 1])
        losses = [
            info_nce(image, one, scale, weights=w) for one, w in zip(texts, weights, strict=True)
        ]
        return {
            "loss": torch.stack(losses).mean(),
            "logit_scale": scale.detach(),
            "caption_weight": weights[0].mean(),
            "synthetic_weight": weights[1].mean(),
            "text_similarity": self.gates.averages[0].clone(),
        }
