"""What an objective may do between two steps: a hook, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from clipflow.model.batch import Batch


@dataclass(frozen=True)
class BetweenSteps:
    """Where a run is, and what it will show."""

    step: int
    """The step to come, counted from 0."""
    num_steps: int
    """Those of the whole run."""
    batch_size: int
    """The global one."""
    seed: int
    upcoming: Callable[[int], Iterable[Batch]]
    """This process's share of so many steps to come, or of those that are left, on the device: the same
    pairs, crops and texts that they will show."""


@runtime_checkable
class BeforeStep(Protocol):
    """An objective with a hook. What it keeps from step to step belongs in its buffers, which are saved."""

    extra_forwards: float
    """How often the hook embeds each sample that a step shows: what it costs, for `clipflow plan`."""

    def before_step(self, run: BetweenSteps) -> None:
        """Called before each step, in all processes and under autocast."""
