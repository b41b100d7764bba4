"""SigLIP: of each image with each text, whether they belong together.

The logit of a pair is scale x cosine + bias, both learned. The loss is the sum over all pairs of the binary
cross-entropy, minus log sigmoid(logit) of a pair that belongs together and minus log sigmoid(-logit) of one
that does not, divided by the number of images. No pair is normalised by others, unlike in CLIP's softmax.
The bias starts low, since of N x N pairs only N are positive. With several texts of an image the loss is
averaged over the versions, with negatives of the same version.

Source: Zhai et al. 2023, *Sigmoid Loss for Language Image Pre-Training* (arXiv:2303.15343), sections 3.2
and 3.3.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.sigmoid import sigmoid_loss
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Siglip(Recipe):
    """Sigmoid loss instead of softmax."""

    status = "mechanism-verified"

    bias_init: float
    """Bias of the logits in the first step, learned from there; the checkpoint has it. SigLIP: -10."""

    @property
    def logit_bias_init(self) -> float:
        """The towers learn a bias."""
        return self.bias_init

    def objective(self, towers: Towers) -> nn.Module:
        """The sigmoid loss between images and texts."""
        return SigmoidContrastive(towers)


class SigmoidContrastive(Contrastive):
    """Towers with the sigmoid loss, of the versions of the text averaged."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be minimised, and `logit_scale` and `logit_bias` beside it."""
        return {**super().forward(batch), "logit_bias": self.towers.bias.detach()}

    def version_loss(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """The sigmoid loss of images and one version of their texts."""
        return sigmoid_loss(image, text, self.towers.scale, self.towers.bias)
