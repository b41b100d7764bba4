"""Resumable state: scratch, never an artifact. Killed at any moment, the run goes on from the last save.

It lies in `$CLIPFLOW_SCRATCH` (default `artifacts/scratch`), in a folder named by everything that
determines the run, so that other params or data never pick it up.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from clipflow.artifacts import manifest
from clipflow.catalogue import Section


@dataclass
class State:
    """What changes while a run goes on, beside weights and optimizer."""

    step: int = 0
    """Steps done."""
    mlflow_run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)


class Scratch:
    """The saved state of one run."""

    def __init__(self, params: Section, inputs: dict[str, Path]) -> None:
        digests = "".join(manifest.digest(folder) for _, folder in sorted(inputs.items()))
        name = hashlib.sha256((params.model_dump_json() + digests).encode()).hexdigest()[:16]
        self.folder = Path(os.environ.get("CLIPFLOW_SCRATCH", "artifacts/scratch")) / name
        self.file = self.folder / "state.pt"

    def save(self, state: State, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Write the state aside and rename it into place, so that a kill leaves the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".partial")
        contents = {
            "state": vars(state),
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(contents, aside)
        aside.replace(self.file)

    def restore(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> State:
        """Put the saved state back, or leave all as it is and return a state of no steps."""
        if not self.file.exists():
            return State()
        contents: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        model.load_state_dict(contents["model"])
        optimiser.load_state_dict(contents["optimiser"])
        torch.set_rng_state(contents["rng"])
        return State(**contents["state"])

    def clear(self) -> None:
        """Delete the state: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Stop:
    """Whether somebody asked the run to stop; true from the first SIGTERM or Ctrl-C on."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a request that the loop heeds between two steps."""
    stop = Stop()

    def ask(number: int, _: FrameType | None) -> None:
        if stop:  # asked twice: at once
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
