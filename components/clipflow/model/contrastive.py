"""The symmetric contrastive loss, on one process or many."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from clipflow.model.towers import Towers


def gather(rows: Float[Tensor, "local dim"]) -> Float[Tensor, "all dim"]:
    """The rows of all processes, in rank order, with gradients back to each row's own process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    return torch.cat(all_gather(rows))  # type: ignore[no-untyped-call]


def info_nce(
    images: Float[Tensor, "local dim"], texts: Float[Tensor, "local dim"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of this process's rows against all columns.

    Row i of `images` belongs to row i of `texts`; both have unit length. The mean of all processes'
    values is the loss of the global batch, and so are the gradients after DDP has averaged them.

    Source: CLIP (Radford et al. 2021), figure 3; LaCLIP, equations 1 and 2.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    labels = torch.arange(len(images), device=images.device) + rank * len(images)
    image_to_text = scale * images @ gather(texts).T
    text_to_image = scale * texts @ gather(images).T
    return (
        functional.cross_entropy(image_to_text.float(), labels)
        + functional.cross_entropy(text_to_image.float(), labels)
    ) / 2


class Contrastive(nn.Module):
    """Towers with InfoNCE between each image and each of its texts, averaged over the texts.

    With one text this is CLIP's loss; with all of them it is LaCLIP's multi-text loss, in which
    negatives come from the same version of the text.
    """

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        tokens: Int[Tensor, "batch texts length"],
    ) -> dict[str, Tensor]:
        """`loss`, to be minimised, and the `logit_scale` beside it."""
        batch, texts, _ = tokens.shape
        image = self.towers.image(images)
        text = self.towers.text(tokens.flatten(0, 1)).view(batch, texts, -1)
        scale = self.towers.scale
        losses = [info_nce(image, text[:, k], scale) for k in range(texts)]
        return {"loss": torch.stack(losses).mean(), "logit_scale": scale.detach()}
