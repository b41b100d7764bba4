"""The pretrain stage: pairs and rewrites become a checkpoint, by the selected recipe."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate.utils import set_seed

from clipflow import params as params_file
from clipflow import track
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as rewrites_artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.model.towers import Towers
from clipflow.pretrain import export, processes
from clipflow.pretrain.loader import loader
from clipflow.pretrain.optimiser import adamw
from clipflow.pretrain.params import Params
from clipflow.pretrain.resume import Scratch, stop_on_signals
from clipflow.pretrain.training import Training

logger = logging.getLogger(__name__)


def run(params: Params, *, pairs: Path, rewrites: Path, checkpoint: Path) -> None:
    """Train and write `checkpoint`, complete or absent.

    Killed, interrupted or preempted, the next call with the same params, inputs and code goes on from
    the last saved state, with the same batches; SIGTERM and Ctrl-C save first. Raises ArtifactError
    for inputs that don't fit, TrackingError before training if MLflow is down.
    """
    data = Pairs(pairs)
    texts = rewrites_artifact.align(rewrites, data)
    track.connect()
    accelerator = processes.accelerator(params)
    set_seed(params.seed)
    towers = Towers(params.architecture, params.recipe.temperature_init)
    objective = params.recipe.objective(towers)
    optimiser = adamw(objective, params)
    inputs = {"pairs": pairs, "rewrites": rewrites}
    lineage = track.lineage(inputs)
    logger.info(
        "recipe %s, %s (%.1fM parameters), %d pairs, %d steps of %d samples on %d x %s in %s",
        params.recipe.name, params.architecture, sum(p.numel() for p in towers.parameters()) / 1e6,
        len(data), params.steps, params.batch_size, accelerator.num_processes,
        accelerator.device.type, accelerator.mixed_precision.replace("no", "float32"),
    )  # fmt: skip
    with Scratch(params, towers.config, inputs).locked(accelerator.is_main_process) as scratch:
        state = scratch.restore(objective, optimiser)
        if state.step:
            logger.info("resuming after step %d from %s", state.step, scratch.folder)
        with (
            track.start(
                f"{params.recipe.name}-{params.architecture}-seed{params.seed}",
                params=params_file.flat(params),
                tags={**lineage, "recipe": params.recipe.name},
                datasets=inputs,
                run_id=state.mlflow_run_id,
            ) as mlflow_run,
            stop_on_signals() as stop,
        ):
            state.mlflow_run_id = mlflow_run.id
            batches = loader(data, texts, params, towers, start=state.step,
                             rank=accelerator.process_index, world=accelerator.num_processes)  # fmt: skip
            Training(params, accelerator, towers, objective, optimiser, state, scratch, mlflow_run,
                     stop).run(batches)  # fmt: skip
            if accelerator.is_main_process:
                with manifest.complete_or_absent(checkpoint) as folder:
                    export.write(folder, params, towers, data, texts, state, lineage)
                scratch.clear()
                mlflow_run.log_artifacts(checkpoint / checkpoint_artifact.CONFIG, "checkpoint")
        accelerator.wait_for_everyone()
    logger.info(
        "wrote %s: loss %.3f after %d steps", checkpoint, state.history[-1]["loss"], state.step
    )
