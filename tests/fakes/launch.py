"""Pretrain runs in several processes of this machine."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Collection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from torch import Tensor

from clipflow import cli
from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from fakes.artifacts import make_pairs, make_rewrites

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" + " and more" * (n % 5) for n in range(32)}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["clipflow.pretrain.stage"])  # imported once, not once a process


def make_inputs(folder: Path, captions: dict[str, str] = CAPTIONS) -> dict[str, Path]:
    """Pairs, and a rewrite of each."""
    pairs = make_pairs(folder / "pairs", captions)
    texts = {key: [f"rewrite of {key}"] for key in captions}
    return {"pairs": pairs, "rewrites": make_rewrites(folder / "rewrites", pairs, texts)}


class Launch:
    """`clipflow pretrain` on so many processes, with the environment that torchrun gives them."""

    def __init__(
        self,
        world: int,
        values: dict[str, Any],
        inputs: dict[str, Path],
        checkpoint: Path,
        scratch: Path,
        spoiled: Collection[int] = (),
    ) -> None:
        """In the steps `spoiled`, counted from 1, the last process's loss is no number."""
        command = _command(values, inputs, checkpoint)
        self.log = checkpoint.with_suffix(".log")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = _env(scratch) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes: list[BaseProcess] = []
        for rank in range(world):
            place = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": world,
                "LOCAL_WORLD_SIZE": world,
            }
            env = shared | {name: str(value) for name, value in place.items()}
            self.processes.append(FORKS.Process(target=_pretrain, args=(
                env, command, self.log, spoiled if rank == world - 1 else ())))  # fmt: skip
            self.processes[-1].start()

    def stop(self) -> None:
        """What torchrun does when it is asked to stop."""
        for process in self.processes:
            assert process.pid
            os.kill(process.pid, signal.SIGTERM)

    def is_alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def wait(self) -> tuple[list[int | None], str]:
        """Exit statuses, and what was written to standard error."""
        while any(process.is_alive() for process in self.processes):
            if any(process.exitcode for process in self.processes):
                for process in self.processes:  # those that can't go on alone
                    process.join(20)
                    process.terminate()
            self.processes[-1].join(0.05)
        return [process.exitcode for process in self.processes], self.log.read_text()


def _env(scratch: Path) -> dict[str, str]:
    return {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "CLIPFLOW_SCRATCH": str(scratch),
            "CLIPFLOW_WORKERS": "0", "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}  # fmt: skip


def _command(values: dict[str, Any], inputs: dict[str, Path], checkpoint: Path) -> list[str]:
    params = checkpoint.with_suffix(".yaml")
    with params.open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    places = inputs | {"checkpoint": checkpoint, "params": params}
    return ["pretrain", *(f"--{name}={place}" for name, place in places.items())]


def _pretrain(env: dict[str, str], command: list[str], log: Path, spoiled: Collection[int]) -> None:
    os.environ.update(env)
    forward, steps = Contrastive.forward, itertools.count(1)

    def spoil(self: Contrastive, batch: Batch) -> dict[str, Tensor]:
        losses = forward(self, batch)
        factor = float("nan") if next(steps) in spoiled else 1.0
        return {**losses, "loss": losses["loss"] * factor}

    Contrastive.forward = spoil  # type: ignore[method-assign]
    with log.open("a") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    cli.main(command)
