"""A moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipflow.pretrain.sharding import own


class Average:
    """The exponential moving average of a module's trained parameters, from its weights at the start.

    Source: Polyak & Juditsky 1992; as CLIP's trainers use it, without correction for the start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move each average by 1 - decay of the way to its weight."""
        torch._foreach_lerp_(
            [own(value) for value in self.values.values()],
            [own(parameter) for parameter in self.trained.values()],
            1 - self.decay,
        )

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """Put the averages in the weights' place."""
        for name, parameter in self.trained.items():
            parameter.copy_(self.values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the parameters' names."""
        return self.values

    def load_state_dict(self, values: dict[str, Tensor]) -> None:
        """Go on from saved averages."""
        for name, value in values.items():
            self.values[name].copy_(value)
