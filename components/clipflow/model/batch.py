"""What a training step computes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from clipflow.model.texts import Texts


class Batch(NamedTuple):
    """One process's share of a step: each pair's image and the texts that it shows."""

    images: UInt8[Tensor, "batch height width 3"]
    """Pixels as they are: the device normalises them."""
    texts: Texts
    rows: Sequence[int] = ()
    """Which pairs these are."""
    damaged: Sequence[str] = ()
    """Keys of samples that could not be read and were replaced."""
    patches: Int[Tensor, "batch kept"] | None = None
    """Which of each image's patches the tower sees, counted row by row; None: all."""
    views: UInt8[Tensor, "batch views height width 3"] | None = None
    """Each image as the recipe shows it besides; None if it doesn't."""
    strings: Sequence[Sequence[str]] = ()
    """Each pair's texts before they were tokenised, as a text teacher reads them: whole, in their case."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._replace(
            images=self.images.to(device, non_blocking=True),
            texts=self.texts.to(device),
            patches=_moved(self.patches, device),
            views=_moved(self.views, device),
        )


def _moved(values: Tensor | None, device: torch.device) -> Tensor | None:
    return None if values is None else values.to(device, non_blocking=True)
