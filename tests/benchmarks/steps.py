"""A training step by itself, timed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from clipflow.plan import FULL, probe
from clipflow.pretrain import stage
from clipflow.pretrain.optimiser import adamw
from clipflow.pretrain.params import Params
from clipflow.recipes import Phase


def timed_step(
    params: Params, batch_size: int, tokens_per_text: int, phase: Phase = FULL
) -> Callable[[], float]:
    """Takes a step of a phase, without the loader, and says how many seconds it took."""
    torch.manual_seed(0)
    towers = stage.build(params).train()
    objective = params.recipe.objective(towers)
    optimiser = adamw(objective, towers, params)
    batch = probe(params, towers, batch_size, tokens_per_text, phase)

    def step() -> float:
        start = time.perf_counter()
        objective(batch)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - start

    return step
