"""How much pairs with a caption and a synthetic caption count: less, the worse they fit together."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clipflow.model.tiled import sum_over_processes


class ConsistencyGates(nn.Module):
    """Weights of each image's two pairs, from how their cosines compare with the usual ones.

    The usual cosine of caption with synthetic caption, of image with caption and of image with synthetic
    caption are moving averages over steps, of the mean over the global batch. They are buffers, saved with
    the weights. Of a sample whose texts agree less than usual, both pairs are weighted by

        exp(sample_sharpness x (cosine of the texts - the usual one))
        x exp(pair_sharpness x (cosine of the pair - the usual one)),

    the latter above 1 for a pair that agrees better than usual; all other samples have weight 1.

    Source: Yang et al. 2023 (ALIP, arXiv:2308.08428), section 3, language and description consistency gate.
    """

    averages: Tensor

    def __init__(
        self, *, momentum: float, start: float, sample_sharpness: float, pair_sharpness: float
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.sample_sharpness, self.pair_sharpness = sample_sharpness, pair_sharpness
        self.register_buffer("averages", torch.full((3,), start))

    @torch.no_grad()
    def forward(
        self,
        image: Float[Tensor, "local dim"],
        caption: Float[Tensor, "local dim"],
        synthetic: Float[Tensor, "local dim"],
        compared: Bool[Tensor, " local"],
    ) -> Float[Tensor, "2 local"]:
        """Weights of image with caption and of image with synthetic caption, of unit-length embeddings.

        In training the averages move first. Samples that are not `compared` have weight 1 and no part in
        the averages.
        """
        image, caption, synthetic = (each.float() for each in (image, caption, synthetic))
        pairs = (caption, synthetic), (image, caption), (image, synthetic)
        cosines = torch.stack([(one * other).sum(1) for one, other in pairs])
        if self.training:
            self._move(cosines, compared)
        of_texts, *of_pairs = cosines - self.averages[:, None]
        weights = self.sample_sharpness * of_texts + self.pair_sharpness * torch.stack(of_pairs)
        return torch.where(compared & (of_texts < 0), weights.exp(), 1.0)

    def _move(self, cosines: Float[Tensor, "3 local"], compared: Bool[Tensor, " local"]) -> None:
        """Move the averages towards the means over all processes; what is not finite moves none."""
        sums = torch.where(compared, cosines, 0.0).sum(1)
        *totals, num = sum_over_processes(torch.cat([sums, compared.sum()[None].to(sums)]))
        moved = self.averages.lerp(torch.stack(totals) / num, 1 - self.momentum)
        self.averages.copy_(torch.where(moved.isfinite(), moved, self.averages))
