"""The head that self-supervision compares views by, with batch norm over all processes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clipflow.model.tiled import gathered

EPS = 1e-5


class ProjectionHead(nn.Sequential):
    """Three linear layers with batch norm and ReLU between, and unit length at the end.

    Those before a batch norm have no bias, which it would take away again.

    Source: Mu et al. 2022 (SLIP, arXiv:2112.12750), section 3.1: a 3-layer MLP with hidden dimension 4096
    and output dimension 256.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__(
            *(nn.Linear(width, hidden, bias=False), BatchNorm(hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden, bias=False), BatchNorm(hidden), nn.ReLU()),
            nn.Linear(hidden, dim),
        )

    def forward(self, features: Float[Tensor, "rows width"]) -> Float[Tensor, "rows dim"]:
        """Unit-length embeddings."""
        for layer in self:
            features = layer(features)
        return functional.normalize(features.float(), dim=-1)


class BatchNorm(nn.Module):
    """Batch norm by the statistics of the global batch: all processes' rows, as many in each.

    There are no running statistics: a head is not used once training is over. Unlike PyTorch's
    SyncBatchNorm it also runs on CPUs. Statistics are in float32 under autocast too.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """The rows with mean 0 and variance 1, scaled and shifted."""
        exact = rows.float()
        centred = exact - _mean_over_processes(exact.mean(0))
        variance = _mean_over_processes(centred.square().mean(0))
        return (centred * (variance + EPS).rsqrt() * self.weight + self.bias).to(rows.dtype)


def _mean_over_processes(values: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    return gathered(values[None]).mean(0)
