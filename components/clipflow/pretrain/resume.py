"""Resumable states: scratch, never an artifact. Killed at any moment, the run goes on from the last save.

They lie in `$CLIPFLOW_SCRATCH` (default `artifacts/scratch`), in a folder named by everything that
determines the run, so that other params, data or code never pick them up:

    step-00000200.pt      model, optimizer, averages, MLflow run, history
    step-00000200.json    its SHA-256
    lock                  held by the process that is at work here

The order of samples, crops, caption draws, the schedule and every random number are functions of the seed,
the step and the rank, so a state needs nothing of them, and doesn't depend on how many processes wrote it.
A run asked to stop exits with 143 (SIGTERM) or 130 (Ctrl-C) after it has saved.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from clipflow.artifacts import manifest
from clipflow.errors import ClipflowError
from clipflow.pretrain.params import Params

logger = logging.getLogger(__name__)

WHEN_TO_SAVE = {"checkpoint_every", "checkpoint_minutes", "checkpoint_keep"}
"""Params that change nothing in what is computed: a run may be taken up again with others."""


class Stateful(Protocol):
    """What a state holds beside its own fields."""

    def state_dict(self) -> dict[str, Any]:
        """Its tensors and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Put them back."""


@dataclass
class State:
    """What changes while a run goes on, beside weights, optimizer and averages."""

    step: int = 0
    """Steps done."""
    mlflow_run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    unlogged: dict[str, float] = field(default_factory=dict)
    """Sums of the steps since the last logged one."""
    num_skipped_in_a_row: int = 0
    num_damaged: int = 0
    """Samples that could not be read, by this process."""


class Scratch:
    """The saved states of one run."""

    def __init__(self, params: Params, config: dict[str, Any], inputs: dict[str, Path]) -> None:
        """Name the run by params, model config, inputs and the code that trains."""
        digests = [manifest.digest(folder) for _, folder in sorted(inputs.items())]
        what = json.dumps(
            [params.model_dump_json(exclude=WHEN_TO_SAVE), config, digests, _code_digest()],
            sort_keys=True,
        )
        name = hashlib.sha256(what.encode()).hexdigest()[:16]
        self.folder = Path(os.environ.get("CLIPFLOW_SCRATCH", "artifacts/scratch")) / name
        self.keep = params.checkpoint_keep

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

    @property
    def samples(self) -> Path:
        """Where the run keeps its pairs joined with their rewrites."""
        return self.folder / "samples.arrow"

    def save(self, state: State, parts: dict[str, Stateful]) -> None:
        """Write a state aside, onto the disk, and rename it into place; then delete those too old to keep.

        A kill or a power cut at any moment leaves the ones before as they were.
        """
        file = self.folder / f"step-{state.step:08d}.pt"
        aside = file.with_suffix(".partial")
        contents = {"state": vars(state), **{n: part.state_dict() for n, part in parts.items()}}
        with aside.open("wb") as stream:
            torch.save(contents, stream)
            stream.flush()
            os.fsync(stream.fileno())
        manifest.write_json(file.with_suffix(".json"), {"sha256": manifest.file_digest(aside)})
        aside.replace(file)
        for old in self._files()[: -self.keep]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)

    def restore(self, parts: dict[str, Stateful]) -> State:
        """Put the newest intact state back, or leave all as it is and return a state of no steps.

        A damaged one is passed over with a warning. Raises ClipflowError if none is intact.
        """
        files = self._files()
        for file in reversed(files):
            if _intact(file):
                contents = torch.load(file, map_location="cpu", weights_only=True)
                for name, part in parts.items():
                    part.load_state_dict(contents[name])
                return State(**contents["state"])
            logger.warning("%s: damaged, passed over; going on from the state before it", file)
        if files:
            raise ClipflowError(
                f"{self.folder}: none of its {len(files)} states is intact;"
                " delete the folder to start this run over"
            )
        return State()

    def _files(self) -> list[Path]:
        """The states there are, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def clear(self) -> None:
        """Delete the state: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _code_digest() -> str:
    """Changes with any line of the loop, the recipes or the model."""
    package = Path(__file__).parents[1]
    files = [f for room in ("model", "pretrain", "recipes") for f in (package / room).rglob("*.py")]
    return hashlib.sha256(b"".join(f.read_bytes() for f in sorted(files))).hexdigest()


def _intact(file: Path) -> bool:
    """Whether a state is as it was written."""
    try:
        written = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(manifest.file_digest(file) == written)


class Due:
    """When the next state is to be saved."""

    def __init__(self, params: Params) -> None:
        self.every, self.seconds = params.checkpoint_every, 60 * params.checkpoint_minutes
        self.saved_at = time.monotonic()

    def __call__(self, step: int) -> bool:
        """Whether it is time, by steps or by minutes since the last one."""
        return step % self.every == 0 or time.monotonic() - self.saved_at >= self.seconds

    def saved(self) -> None:
        """Count the minutes from now."""
        self.saved_at = time.monotonic()


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
