"""Resumable state: scratch, never an artifact. Killed at any moment, the run goes on from the last save.

It lies in `$CLIPFLOW_SCRATCH` (default `artifacts/scratch`), in a folder named by everything that
determines the run, so that other params, data or code never pick it up.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
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
from clipflow.errors import ClipflowError


@dataclass
class State:
    """What changes while a run goes on, beside weights and optimizer."""

    step: int = 0
    """Steps done."""
    mlflow_run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    unlogged: dict[str, float] = field(default_factory=dict)
    """Sums of the steps since the last logged one."""
    num_unlogged: int = 0


class Scratch:
    """The saved state of one run."""

    def __init__(self, params: Section, config: dict[str, Any], inputs: dict[str, Path]) -> None:
        """Name the run by params, model config, inputs and the code that trains."""
        digests = [manifest.digest(folder) for _, folder in sorted(inputs.items())]
        what = json.dumps(
            [params.model_dump_json(), config, digests, _code_digest()], sort_keys=True
        )
        name = hashlib.sha256(what.encode()).hexdigest()[:16]
        self.folder = Path(os.environ.get("CLIPFLOW_SCRATCH", "artifacts/scratch")) / name
        self.file = self.folder / "state.pt"

    @contextmanager
    def locked(self, is_main_process: bool) -> Iterator[Scratch]:
        """Keep other runs off while this one lasts. Raises ClipflowError if one is at work here."""
        if not is_main_process:
            yield self
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClipflowError(
                    f"{self.folder}: the same run is still going on in another process; "
                    "wait for it, or stop it and run this again"
                ) from None
            yield self

    def save(self, state: State, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Write the state aside and rename it into place, so that a kill leaves the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".partial")
        contents = {
            "state": vars(state),
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
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
        return State(**contents["state"])

    def clear(self) -> None:
        """Delete the state: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _code_digest() -> str:
    """Changes with any line of the loop, the recipes or the model."""
    package = Path(__file__).parents[1]
    files = [f for room in ("model", "pretrain", "recipes") for f in (package / room).rglob("*.py")]
    return hashlib.sha256(b"".join(f.read_bytes() for f in sorted(files))).hexdigest()


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
