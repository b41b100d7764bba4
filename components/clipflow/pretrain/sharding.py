"""FSDP2: weights, gradients, moments and averages split over the processes instead of repeated in each.

Each layer's weights are gathered when it computes, forward and backward, and let go after it. The
mathematics is DDP's. accelerate shards on GPUs alone, and after the optimizer is made; torch's own
`fully_shard` does it anywhere, and first.
"""

from __future__ import annotations

import re

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from clipflow.model.towers import LAYER


def shard(objective: nn.Module, device_type: str) -> None:
    """Keep of each parameter this process's rows alone. Scalars, which can't be split, stay whole."""
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    scalars = {p for p in objective.parameters() if p.ndim == 0}
    is_layer = re.compile(f"{LAYER.pattern}$")
    layers = [part for name, part in objective.named_modules() if is_layer.search(f"{name}.")]
    for part in [*reversed(layers), objective]:
        fully_shard(part, mesh=mesh, ignored_params=scalars)
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_mean)


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """All of a module's weights, in the first process's memory. Every process must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(module, options=options))  # type: ignore[arg-type]


def own(tensor: Tensor) -> Tensor:
    """The rows that this process holds: the tensor itself unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _mean(scalar: Tensor) -> None:
    assert scalar.grad is not None
    dist.all_reduce(scalar.grad)
    scalar.grad.div_(dist.get_world_size())
