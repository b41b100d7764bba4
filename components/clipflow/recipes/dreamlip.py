"""DreamLIP: each image, and groups of its patches, against sentences of long captions.

In every step a pair shows its caption and sentences drawn from its rewrites, long captions that a
`captioner` makes from the image. The loss is the sum of two. Multi-positive: InfoNCE per version of the
text, with negatives of the same version, averaged over the versions, as in `laclip_mt` and in the authors'
code. Grouping, times `grouping_weight`: a text's cosine with each patch of its own image is scaled from 0
to 1 over the image, what is below the threshold is left out, and the mean of the patches with these weights
is the text's own view of the image; InfoNCE of these views and the texts of the whole batch, in which the
image's other texts are negatives too. A text that a pair shows twice is one positive with itself.

The scale of the grouping loss is the towers' own. Patches are those of a ViT: with a `grouping_weight` of 0
any architecture will do, and what is left is `clip` with these texts.

Source: Zheng et al. 2024, *DreamLIP: Language-Image Pre-training with Long Captions* (arXiv:2403.17007),
section 3.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.grouping import grouped_patches
from clipflow.model.info_nce import info_nce
from clipflow.model.token_embeddings import check, embed_image_tokens
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe, TextPolicy


class DreamLip(Recipe):
    """Sub-captions as several positives, and with the patches that each of them is about."""

    status = "mechanism-verified"

    num_texts: int = Field(ge=1)
    """The caption and how many sentences besides; a pair with fewer shows its caption again."""
    grouping_weight: float = Field(ge=0)
    """Of the grouping loss beside the multi-positive one."""
    threshold: float | None = Field(ge=0, lt=1)
    """Least scaled similarity of a patch in a group. null: 1 over the number of patches."""

    @property
    def own_texts(self) -> TextPolicy:
        """The caption and sentences of its rewrites, always `num_texts` of them."""
        return f"sentences-{self.num_texts}"

    def objective(self, towers: Towers) -> nn.Module:
        """Multi-positive InfoNCE and, if it has weight, grouping. Raises ParamsError without patches."""
        if not self.grouping_weight:
            return Contrastive(towers)
        check(towers, self.name)
        return GroupingContrastive(towers, self.grouping_weight, self.threshold)


class GroupingContrastive(Contrastive):
    """Towers with InfoNCE of images and texts, and of groups of patches and texts."""

    def __init__(self, towers: Towers, grouping_weight: float, threshold: float | None) -> None:
        super().__init__(towers)
        self.grouping_weight, self.threshold = grouping_weight, threshold

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be minimised, and beside it its two parts and the `logit_scale`."""
        image = embed_image_tokens(self.towers, batch.images, batch.patches)
        text = self.towers.embed_texts(batch.texts)
        groups = grouped_patches(image.tokens, text, self.threshold)
        contrastive = self.loss(image.pooled, text)
        grouping = info_nce(groups.flatten(0, 1), text.flatten(0, 1), self.towers.scale)
        return {
            "loss": contrastive + self.grouping_weight * grouping,
            "contrastive_loss": contrastive.detach(),
            "grouping_loss": grouping.detach(),
            "logit_scale": self.towers.scale.detach(),
        }
