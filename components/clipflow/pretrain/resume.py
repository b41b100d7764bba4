"""Resumable states: scratch, never an artifact. Killed at any moment, the run goes on from the last save.

They lie in `$CLIPFLOW_SCRATCH` (default `artifacts/scratch`), in a folder named by everything that
determines the run, so that other params, data or code never pick them up:

    step-00000200-1f0c2a4be8d90c35.pt   model, optimizer, average, MLflow run, history; named by its SHA-256
    samples.arrow                       pairs joined with their rewrites
    lock                                held by the process that is at work here
    made                                the checkpoint's digest, once it is there: all that is left then

The order of samples, crops, caption draws, the schedule and every random number are functions of the seed,
the step and the rank, so a state needs nothing of them. Weights are saved whole, by the first process,
whether or not they are sharded: a run may go on with another number of processes.
A run asked to stop exits with 143 (SIGTERM) or 130 (Ctrl-C) after it has saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, NotRequired, Protocol, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from clipflow.artifacts import lock, manifest
from clipflow.errors import ClipflowError
from clipflow.log import is_main_process
from clipflow.pretrain.params import Params

logger = logging.getLogger(__name__)

MADE = "made"
NOT_COMPUTED = {"checkpoint_every", "checkpoint_minutes", "checkpoint_keep", "sharded"}
"""Params that change nothing in what is computed: a run may be taken up again with others."""


class Stateful(Protocol):
    """Tensors by name."""

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors."""

    def load_state_dict(self, values: dict[str, Tensor], /) -> None:
        """Put them back."""


class Parts(TypedDict):
    """What a state holds beside `State`; plain or sharded over processes."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: NotRequired[Stateful]


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
            [params.model_dump_json(exclude=NOT_COMPUTED), config, digests, _code_digest()],
            sort_keys=True,
        )
        name = hashlib.sha256(what.encode()).hexdigest()[:16]
        self.folder = Path(os.environ.get("CLIPFLOW_SCRATCH", "artifacts/scratch")) / name
        self.keep = params.checkpoint_keep

    @contextmanager
    def locked(self, is_main: bool) -> Iterator[Scratch]:
        """Keep other runs off while this one lasts. Raises ClipflowError if one is at work here."""
        if not is_main:
            yield self
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock.held(self.folder / "lock"):
            yield self

    @property
    def samples(self) -> Path:
        """Where the run keeps its pairs joined with their rewrites."""
        return self.folder / "samples.arrow"

    def save(self, state: State, parts: Parts) -> None:
        """Leave a new newest state, and delete those too old to keep.

        Every process must call it at the same step: sharded weights are gathered, the first process writes.
        Before the first step weights are what the seed makes them, and the state is without them.
        """
        contents = {"state": vars(state), **(_gathered(parts) if state.step else {})}
        if is_main_process():
            self._write(state.step, contents)
            for old in self._files()[: -self.keep]:
                old.unlink()

    def restore(self, parts: Parts) -> State:
        """Put the newest intact state back, or leave all as it is and return a state of no steps.

        Every process must call it: the first one reads, the others hear of it. Damaged states are passed
        over and deleted, with a warning. Raises ClipflowError if there are only such.
        """
        contents = self._read() if is_main_process() else {}
        known = [contents.get("state", {})]
        if dist.is_initialized():
            dist.broadcast_object_list(known)
        state = State(**known[0])
        if state.step:
            _scatter(contents, parts)
        return state

    def made(self, checkpoint: Path) -> bool:
        """Whether an earlier call has made this checkpoint: publishing it may be what failed since then.

        Every process must call it. If not, the note of a run before this one is gone: what is made from now
        on may be equal to what that made, and is not complete before `clear`.
        """
        known = [is_main_process() and self._has_made(checkpoint)]
        if dist.is_initialized():
            dist.broadcast_object_list(known)
        return known[0]

    def clear(self, checkpoint: Path) -> None:
        """Forget the run, which is complete, but for the digest of what it made."""
        aside = self.folder / f"{MADE}.partial"
        aside.write_text(manifest.digest(checkpoint), encoding="utf-8")
        aside.replace(self.folder / MADE)
        self._forget()

    def _has_made(self, checkpoint: Path) -> bool:
        note = self.folder / MADE
        digest = manifest.digest(checkpoint) if (checkpoint / manifest.MANIFEST).exists() else None
        if not note.exists() or digest != note.read_text(encoding="utf-8"):
            note.unlink(missing_ok=True)
            return False
        self._forget()  # the earlier call may have been killed before it did
        return True

    def _forget(self) -> None:
        for file in self.folder.iterdir():
            if file.name not in {MADE, "lock"}:
                file.unlink()

    def _write(self, step: int, contents: dict[str, Any]) -> None:
        """Write aside, onto the disk, and rename: a kill or a power cut leaves the older states alone."""
        aside = self.folder / "state.partial"
        with aside.open("wb") as stream:
            torch.save(contents, stream)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(self.folder / f"step-{step:08d}-{_digest(aside)}.pt")
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _read(self) -> dict[str, Any]:
        """The newest intact state, or nothing if there is none at all."""
        files = self._files()
        damaged = []
        while files and not files[-1].stem.endswith(_digest(files[-1])):
            damaged.append(files.pop())
        if damaged and not files:
            raise ClipflowError(
                f"{self.folder}: none of its {len(damaged)} states is intact;"
                " delete the folder to start this run over"
            )
        for file in damaged:
            logger.warning("%s: damaged, deleted; going on from %s", file, files[-1].name)
            file.unlink()
        if not files:
            return {}
        return dict(torch.load(files[-1], map_location="cpu", weights_only=True))

    def _files(self) -> list[Path]:
        """The states there are, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))


def _gathered(parts: Parts) -> dict[str, Any]:
    """What a state holds, whole and in the first process's memory; the other processes keep nothing."""
    model, optimiser = get_state_dict(
        parts["model"],
        parts["optimiser"],
        options=StateDictOptions(full_state_dict=True, cpu_offload=True),
    )
    average = {}
    for name, value in parts["average"].state_dict().items() if "average" in parts else ():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if is_main_process():
            average[name] = whole.cpu()
    return {"model": model, "optimiser": optimiser, "average": average}


def _scatter(contents: dict[str, Any], parts: Parts) -> None:
    """Put what the first process holds back into every process's parts, each its shard."""
    whole = StateDictOptions(full_state_dict=True, broadcast_from_rank0=dist.is_initialized())
    set_model_state_dict(parts["model"], contents.get("model", {}), options=whole)
    set_optimizer_state_dict(
        parts["model"],
        parts["optimiser"],
        contents.get("optimiser", {}),
        # A parameter that has had no gradient has no moments.
        options=replace(whole, strict=False),
    )
    if "average" in parts:
        parts["average"].load_state_dict(
            {
                name: _placed(contents["average"][name] if is_main_process() else None, value)
                for name, value in parts["average"].state_dict().items()
            }
        )


def _placed(whole: Tensor | None, like: Tensor) -> Tensor:
    """A tensor of the first process, in all of them, and sharded as another is."""
    value = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    if whole is not None:
        value.copy_(whole)
    if dist.is_initialized():
        dist.broadcast(value, 0)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


def _code_digest() -> str:
    """Changes with any line of the loop, the recipes or the model."""
    package = Path(__file__).parents[1]
    rooms = ("model", "pretrain", "recipes")
    return manifest.files_digest(f for room in rooms for f in (package / room).rglob("*.py"))


def _digest(file: Path) -> str:
    return manifest.file_digest(file)[:16]


class Due:
    """When the next state is to be saved: after so many steps, or minutes by the first process's clock."""

    def __init__(self, params: Params) -> None:
        self.every, self.seconds = params.checkpoint_every, 60 * params.checkpoint_minutes
        self.asked_at = time.monotonic()

    def __call__(self, step: int) -> bool:
        """Whether to ask for a state now. To be asked at each step; the minutes count from the last yes."""
        late = is_main_process() and time.monotonic() - self.asked_at >= self.seconds
        due = late or step % self.every == 0
        if due:
            self.asked_at = time.monotonic()
        return due

    def saved(self) -> None:
        """Count the minutes from now."""
        self.asked_at = time.monotonic()


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
        # Ctrl-C twice: at once. A launcher that dies may send SIGTERM once for each of its threads.
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
