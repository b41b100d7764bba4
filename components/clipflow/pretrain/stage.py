"""The pretrain stage: pairs and rewrites become a checkpoint, by the selected recipe."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from clipflow import log, track
from clipflow import params as params_file
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as rewrites_artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ClipflowError
from clipflow.model.towers import Towers
from clipflow.pretrain import export
from clipflow.pretrain.loader import Batch, loader
from clipflow.pretrain.optimiser import adamw, learning_rate
from clipflow.pretrain.params import Params
from clipflow.pretrain.resume import Scratch, State, Stop, stop_on_signals

logger = logging.getLogger(__name__)


def run(params: Params, *, pairs: Path, rewrites: Path, checkpoint: Path) -> None:
    """Train and write `checkpoint`, complete or absent.

    Killed, interrupted or preempted, the next call with the same params and inputs goes on where the
    last saved state was, with the same batches; SIGTERM and Ctrl-C save first. Raises ArtifactError
    for inputs that don't fit, TrackingError before training if MLflow is down.
    """
    data = Pairs(pairs)
    texts = rewrites_artifact.align(rewrites, data)
    track.connect()
    accelerator = _accelerator(params)
    set_seed(params.seed)
    towers = Towers(params.architecture, params.recipe.temperature_init)
    objective = params.recipe.objective(towers)
    optimiser = adamw(objective, params)
    scratch = Scratch(params, {"pairs": pairs, "rewrites": rewrites})
    state = scratch.restore(objective, optimiser)
    name = f"{params.recipe.name}-{params.architecture}-seed{params.seed}"
    logger.info(
        "recipe %s, %s (%.1fM parameters), %d pairs, %d steps of %d samples on %d x %s in %s",
        params.recipe.name, params.architecture, sum(p.numel() for p in towers.parameters()) / 1e6,
        len(data), params.steps, params.batch_size, accelerator.num_processes,
        accelerator.device.type, accelerator.mixed_precision.replace("no", "float32"),
    )  # fmt: skip
    if state.step:
        logger.info("resuming after step %d from %s", state.step, scratch.folder)
    lineage = track.lineage({"pairs": pairs, "rewrites": rewrites})
    with (
        track.start(
            name,
            params=params_file.flat(params),
            tags={**lineage, "recipe": params.recipe.name},
            datasets={"pairs": pairs, "rewrites": rewrites},
            run_id=state.mlflow_run_id,
        ) as mlflow_run,
        stop_on_signals() as stop,
    ):
        state.mlflow_run_id = mlflow_run.id
        _train(params, data, texts, accelerator, objective, towers, optimiser, state, scratch,
               mlflow_run, stop)  # fmt: skip
        if accelerator.is_main_process:
            with manifest.complete_or_absent(checkpoint) as folder:
                export.write(folder, params, towers, data, texts, state, lineage)
            scratch.clear()
            mlflow_run.log_artifacts(checkpoint / checkpoint_artifact.CONFIG, "checkpoint")
    accelerator.wait_for_everyone()
    logger.info(
        "wrote %s: loss %.3f after %d steps", checkpoint, state.history[-1]["loss"], state.step
    )


def _train(
    params: Params,
    data: Pairs,
    texts: pa.ListArray,
    accelerator: Accelerator,
    objective: torch.nn.Module,
    towers: Towers,
    optimiser: torch.optim.Optimizer,
    state: State,
    scratch: Scratch,
    mlflow_run: track.Run,
    stop: Stop,
) -> None:
    model, optimiser = accelerator.prepare(objective, optimiser)
    model.train()
    batches = loader(data, texts, params, towers, start=state.step,
                     rank=accelerator.process_index, world=accelerator.num_processes)  # fmt: skip
    meter = _Meter(params)
    with log.progress(range(params.steps), total=params.steps, what="training", unit="step") as bar:
        bar.update(state.step)
        for batch in meter.waiting(batches):
            batch = batch.to(accelerator.device)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(state.step, params)
            with accelerator.autocast():
                losses = model(batch.images, batch.tokens)
            accelerator.backward(losses["loss"])
            optimiser.step()
            optimiser.zero_grad()
            towers.clamp_scale()

            state.step += 1
            meter.add(losses)
            bar.update()
            if state.step % params.log_every == 0 or state.step == params.steps:
                row = {"step": state.step, **meter.read(state.step)}
                state.history.append(row)
                mlflow_run.log({f"train/{k}": v for k, v in row.items() if k != "step"}, state.step)
                bar.set_postfix(loss=f"{row['loss']:.3f}")
            stopping = _agree(bool(stop), accelerator, state.step, params)
            if (
                stopping or state.step % params.checkpoint_every == 0
            ) and state.step < params.steps:
                if accelerator.is_main_process:
                    scratch.save(state, objective, optimiser)
                if stopping:
                    logger.warning(
                        "stopped after step %d; run it again to go on from there", state.step
                    )
                    sys.exit(128 + (stop.signal or 15))


class _Meter:
    """Sums up what happens between two logged steps, without waiting for the device in each."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.waited_s = 0.0
        self.started = time.perf_counter()

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
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.steps += 1

    def read(self, step: int) -> dict[str, float]:
        """Means since the last reading. Raises ClipflowError if the loss is no longer finite."""
        elapsed = time.perf_counter() - self.started
        means = {name: (total / self.steps).item() for name, total in self.sums.items()}
        if not math.isfinite(means["loss"]):
            raise ClipflowError(
                f"the loss became {means['loss']} before step {step}; lower pretrain.lr, raise"
                " pretrain.warmup_steps or set pretrain.precision to float32"
            )
        rates = {
            "lr": learning_rate(step, self.params),
            "samples_per_second": self.params.batch_size * self.steps / elapsed,
            "data_wait_share": self.waited_s / elapsed,
        }
        self.__init__(self.params)  # type: ignore[misc]
        return {**means, **rates}


def _accelerator(params: Params) -> Accelerator:
    """All processes of this launch. Raises ClipflowError if they don't know of each other."""
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    precision = {"auto": "bf16" if bfloat16 else "no", "float32": "no", "bfloat16": "bf16"}
    accelerator = Accelerator(
        mixed_precision=precision[params.precision], cpu=not torch.cuda.is_available()
    )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise ClipflowError(
            f"launched as {world} processes but accelerate sees {accelerator.num_processes}; without a GPU"
            " launch with 'torchrun --nproc-per-node N -m clipflow pretrain' and ACCELERATE_USE_CPU=1"
        )
    return accelerator


def _agree(stop: bool, accelerator: Accelerator, step: int, params: Params) -> bool:
    """Whether to stop now: at once on one process, at the next logged step if several must agree."""
    if accelerator.num_processes == 1:
        return stop
    if step % params.log_every:
        return False
    asked = torch.tensor(int(stop), device=accelerator.device)
    return bool(accelerator.reduce(asked, reduction="sum").item())
