"""The processes of one run: that they know of each other, and that they stop together."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from clipflow.errors import ClipflowError
from clipflow.pretrain.params import Params

AGREE_EVERY_STEPS = 10
"""How often several processes ask each other whether to stop: asking waits for all of them."""


def accelerator(params: Params) -> Accelerator:
    """All processes of this launch. Raises ClipflowError if they don't know of each other."""
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    precision = {"auto": "bf16" if bfloat16 else "no", "float32": "no", "bfloat16": "bf16"}
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    found = Accelerator(
        mixed_precision=precision[params.precision], cpu=not torch.cuda.is_available()
    )
    if found.num_processes != launched:
        raise ClipflowError(
            f"launched as {launched} processes but accelerate sees {found.num_processes}; without a GPU"
            " launch with 'torchrun --nproc-per-node N -m clipflow pretrain' and ACCELERATE_USE_CPU=1"
        )
    return found


def agree(stop: bool, accelerator: Accelerator, step: int) -> bool:
    """Whether to stop now, the same answer in every process."""
    if accelerator.num_processes == 1:
        return stop
    if step % AGREE_EVERY_STEPS:
        return False
    asked = torch.tensor(int(stop), device=accelerator.device)
    return bool(accelerator.reduce(asked, reduction="sum").item())
