"""What happened between two logged steps, without waiting for the device in each step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from clipflow.model.batch import Batch


class Meter:
    """Sums of what the objective reports, and how long the steps and the waits for data took."""

    def __init__(self, sums: dict[str, float]) -> None:
        """Go on from the sums of a run that was stopped between two logged steps."""
        self.sums: dict[str, Tensor | float] = dict(sums)
        self.total_waited_s = self.total_s = 0.0
        self.started, self.waited_s, self.timed_steps = time.perf_counter(), 0.0, 0

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

    def add(
        self, values: dict[str, Tensor | float], skipped: Float[Tensor, ""], num_damaged: int
    ) -> None:
        """Count one step; of a skipped one only that it was skipped, and its damaged samples."""
        taken = 1 - skipped
        counts: dict[str, Tensor | float] = {
            "skipped_steps": skipped, "taken_steps": taken, "damaged_samples": float(num_damaged),
        }  # fmt: skip
        for name, value in values.items():
            counts[name] = torch.where(skipped > 0, 0.0, torch.as_tensor(value).detach())
        for name, count in counts.items():
            self.sums[name] = self.sums.get(name, 0.0) + count
        self.timed_steps += 1

    def unlogged(self) -> dict[str, float]:
        """The sums so far, as numbers, to be saved with the state."""
        return {name: float(value) for name, value in self.sums.items()}

    def read(self, batch_size: int, accelerator: Accelerator) -> dict[str, float]:
        """Means over the steps taken and processes since the last reading. Every process must call it."""
        elapsed_s = time.perf_counter() - self.started
        totals = torch.stack(
            [torch.as_tensor(v, device=accelerator.device) for v in self.sums.values()]
        )
        means = accelerator.reduce(totals, reduction="mean").tolist()
        row = dict(zip(self.sums, means, strict=True))
        skipped, taken = row.pop("skipped_steps"), row.pop("taken_steps")
        damaged = row.pop("damaged_samples") * accelerator.num_processes
        row = {name: value / taken if taken else float("nan") for name, value in row.items()}
        row |= {"skipped_steps": skipped, "damaged_samples": damaged}
        row["samples_per_second"] = batch_size * self.timed_steps / elapsed_s
        row["data_wait_share"] = self.waited_s / elapsed_s
        self.sums = {}
        self.total_s += elapsed_s
        self.total_waited_s += self.waited_s
        self.started, self.waited_s, self.timed_steps = time.perf_counter(), 0.0, 0
        return row
