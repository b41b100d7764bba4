"""AdamW as CLIP and LaCLIP use it, and their learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from clipflow.pretrain.params import Params

LR_BEFORE_WARMUP = 1e-6


def adamw(model: nn.Module, params: Params) -> torch.optim.AdamW:
    """AdamW, betas (0.9, 0.98), eps 1e-8; matrices decay, vectors, scalars and norms don't."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": params.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=params.lr, betas=(0.9, 0.98), eps=1e-8)


def learning_rate(step: int, params: Params) -> float:
    """Linear from 1e-6 to `lr` over the warm-up, then half a cosine down to `lr_min`."""
    if step < params.warmup_steps:
        share = step / params.warmup_steps
        return LR_BEFORE_WARMUP + share * (params.lr - LR_BEFORE_WARMUP)
    share = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    return params.lr_min + (params.lr - params.lr_min) * (1 + math.cos(math.pi * share)) / 2
