"""What happened between two logged steps, without waiting for the device in each step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from clipflow.errors import ClipflowError
from clipflow.pretrain.loader import Batch


class Meter:
    """Sums of what the objective reports, and how long the steps and the waits for data took."""

    def __init__(self, unlogged: dict[str, float], num_unlogged: int) -> None:
        """Go on from the sums of a run that was stopped between two logged steps."""
        self.sums: dict[str, Tensor | float] = dict(unlogged)
        self.num_steps = num_unlogged
        self._restart_clock()

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time until each arrives is counted."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited_s += time.perf_counter() - start
            yield batch

    def add(self, losses: dict[str, Tensor]) -> None:
        """Count one step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.num_steps += 1
        self.timed_steps += 1

    def unlogged(self) -> dict[str, float]:
        """The sums so far, as numbers, to be saved with the state."""
        return {name: float(value) for name, value in self.sums.items()}

    def read(self, step: int, batch_size: int, accelerator: Accelerator) -> dict[str, float]:
        """Means over steps and processes since the last reading. Every process must call it.

        Raises ClipflowError if the loss is no longer finite.
        """
        elapsed_s = time.perf_counter() - self.started
        totals = torch.stack(
            [torch.as_tensor(v, device=accelerator.device) for v in self.sums.values()]
        )
        means = accelerator.reduce(totals / self.num_steps, reduction="mean").tolist()
        row = dict(zip(self.sums, means, strict=True))
        if not math.isfinite(row["loss"]):
            raise ClipflowError(
                f"the loss became {row['loss']} before step {step}; lower pretrain.lr, raise"
                " pretrain.warmup_steps or set pretrain.precision to float32"
            )
        row["samples_per_second"] = batch_size * self.timed_steps / elapsed_s
        row["data_wait_share"] = self.waited_s / elapsed_s
        self.sums, self.num_steps = {}, 0
        self._restart_clock()
        return row

    def _restart_clock(self) -> None:
        self.started, self.waited_s, self.timed_steps = time.perf_counter(), 0.0, 0
