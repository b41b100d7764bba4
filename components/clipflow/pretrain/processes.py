"""The processes of one run: that they know of each other, and that they stop together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from jaxtyping import Float
from torch import Tensor

from clipflow.errors import ClipflowError
from clipflow.pretrain.params import Params

DATA_PARALLEL = DistributedType.MULTI_GPU, DistributedType.MULTI_CPU
"""The ways in which accelerate replicates the model by DDP."""
PR_SET_PDEATHSIG = 1


def accelerator(params: Params) -> Accelerator:
    """All processes of this launch.

    Raises ClipflowError if they don't know of each other, or if the launcher is to shard.
    """
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ:
        _end_with_launcher()
    # Of a gradient's layout in memory; DDP copies it then, and there is nothing to be done about it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    precision = {"auto": "bf16" if bfloat16 else "no", "float32": "no", "bfloat16": "bf16"}
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    found = Accelerator(
        mixed_precision=precision[params.precision],
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if found.num_processes != launched:
        raise ClipflowError(
            f"launched as {launched} processes but accelerate sees {found.num_processes}; without a GPU"
            " launch with 'torchrun --nproc-per-node N -m clipflow pretrain' and ACCELERATE_USE_CPU=1"
        )
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" and "FSDP"
    if asked or found.distributed_type not in (DistributedType.NO, *DATA_PARALLEL):
        raise ClipflowError(
            f"launched with {asked or found.distributed_type.value}; leave out --use_fsdp and the like:"
            " pretrain.sharded: true splits the weights over the processes, however they are launched"
        )
    return found


def _end_with_launcher() -> None:
    """Have the kernel send SIGTERM when the parent is gone: accelerate's launcher passes none on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def worst(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The largest of all processes' values, on their devices."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


class Agreement:
    """What any process asks for becomes known to all at the same step, without any waiting for it."""

    def __init__(self, num_processes: int) -> None:
        self.alone = num_processes == 1
        self.group = None if self.alone else dist.new_group(backend="gloo")
        self._asked: tuple[Any, Tensor] | None = None

    def ask(self, *wishes: bool) -> list[bool]:
        """Which wishes any process had: in this step if there is one process, else in the one before."""
        if self.alone:
            return list(wishes)
        flags = torch.tensor(wishes, dtype=torch.int32)
        work = dist.all_reduce(flags, group=self.group, async_op=True)  # type: ignore[arg-type]
        before, self._asked = self._asked, (work, flags)
        if before is None:
            return [False] * len(wishes)
        before[0].wait()
        return [bool(flag) for flag in before[1]]
