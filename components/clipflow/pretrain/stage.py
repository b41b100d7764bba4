"""The pretrain stage: pairs and rewrites become a checkpoint, by the selected recipe."""

from __future__ import annotations

import logging
from pathlib import Path

import safetensors.torch
from accelerate.utils import set_seed
from torch import nn

from clipflow import params as params_file
from clipflow import track
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError
from clipflow.model import similarity_file
from clipflow.model.similarity import Similarity
from clipflow.model.towers import Towers
from clipflow.pretrain import export, facts, phases, processes, sharding
from clipflow.pretrain.average import Average
from clipflow.pretrain.loader import loader
from clipflow.pretrain.optimiser import adamw
from clipflow.pretrain.params import Params
from clipflow.pretrain.resume import Parts, Scratch, stop_on_signals
from clipflow.pretrain.samples import Samples, join
from clipflow.pretrain.training import Training

logger = logging.getLogger(__name__)


def run(params: Params, *, pairs: Path, rewrites: Path, checkpoint: Path) -> None:
    """Train and write `checkpoint`, complete or absent.

    Killed, interrupted or preempted, the next call with the same params, inputs and code goes on from
    the last saved state, with the same batches, on as many processes as there now are; SIGTERM and
    Ctrl-C save first. A checkpoint that such a call has made is left as it is. Raises ArtifactError for
    inputs that don't fit, TrackingError before training if MLflow is down, ClipflowError if the loss stays
    away from finite numbers.
    """
    data = Pairs(pairs)
    track.connect()
    accelerator = processes.accelerator(params)
    set_seed(params.seed)
    towers = build(params)
    objective = build_objective(params, towers).to(accelerator.device)
    if params.sharded and accelerator.num_processes > 1:
        sharding.shard(objective, accelerator.device.type)
        model = objective
    else:
        model = accelerator.prepare(objective)
    optimiser = adamw(objective, towers, params)
    average = Average(objective, params.ema_decay) if params.ema_decay else None
    inputs = {"pairs": pairs, "rewrites": rewrites}
    if params.initial_weights:
        inputs["initial_weights"] = Path(params.initial_weights)
    lineage = track.lineage(inputs)
    logger.info(
        "recipe %s, %s (%.1fM parameters), %d pairs, %d steps of %d samples on %d x %s in %s%s",
        params.recipe.name, params.architecture, sum(p.numel() for p in towers.parameters()) / 1e6,
        len(data), params.steps, params.batch_size, accelerator.num_processes,
        accelerator.device.type, accelerator.mixed_precision.replace("no", "float32"),
        ", sharded" if model is objective and accelerator.num_processes > 1 else "",
    )  # fmt: skip
    for number, phase in enumerate(params.phases if len(params.phases) > 1 else []):
        logger.info("phase %d: %s", number, phases.describe(phase, towers))
    with Scratch(params, towers.config, inputs).locked(accelerator.is_main_process) as scratch:
        if scratch.made(checkpoint):
            logger.info("%s: made by an earlier try", checkpoint)
            return
        with accelerator.local_main_process_first():
            join(data, rewrites, scratch.samples)
        samples = Samples(data, scratch.samples)
        parts: Parts = {"model": objective, "optimiser": optimiser}
        if average:
            parts["average"] = average
        state = scratch.restore(parts)
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
            if (
                not state.step
            ):  # else a kill before the first save leaves a run that none goes on with
                scratch.save(state, parts)
            batches = loader(samples, params, towers, start=state.step,
                             rank=accelerator.process_index, world=accelerator.num_processes)  # fmt: skip
            Training(params, accelerator, samples, towers, model, optimiser, average, state, scratch,
                     parts, mlflow_run, stop).run(batches)  # fmt: skip
            if average:
                average.copy_to_weights()
            weights = sharding.whole_weights(towers.clip)
            similarity: Similarity | None = getattr(objective, "similarity", None)
            compared = (similarity, sharding.whole_weights(similarity)) if similarity else None
            if accelerator.is_main_process:
                with manifest.complete_or_absent(checkpoint) as folder:
                    export.write(
                        folder, params, towers, weights, samples, state, lineage,
                        facts.of_data(pairs, rewrites), compared,
                    )  # fmt: skip
                mlflow_run.log_artifacts(checkpoint / checkpoint_artifact.CONFIG, "checkpoint")
        if accelerator.is_main_process:
            scratch.clear(checkpoint)
        accelerator.wait_for_everyone()
    logger.info(
        "wrote %s: loss %.3f after %d steps", checkpoint, state.history[-1]["loss"], state.step
    )


def build(params: Params) -> Towers:
    """The towers as training starts.

    Raises ArtifactError for initial weights of another architecture, ParamsError if the towers can't take
    what the phases show them.
    """
    towers = Towers(
        params.architecture,
        params.recipe.temperature_init,
        logit_bias_init=params.recipe.logit_bias_init,
        decoder=params.recipe.has_decoder,
        chunk_size=params.chunk_size,
    )
    phases.check(params, towers)
    if params.initial_weights:
        folder = Path(params.initial_weights)
        made_with = checkpoint_artifact.read(folder)["architecture"]
        if made_with != params.architecture:
            raise ArtifactError(
                f"pretrain.initial_weights: {folder} is a {made_with}, expected a {params.architecture};"
                " choose another checkpoint or set pretrain.architecture"
            )
        towers.load(safetensors.torch.load_file(folder / checkpoint_artifact.WEIGHTS))
    for name in params.locked:
        towers.lock(name)
    if params.compile:
        towers.compile_parts()
    return towers


def build_objective(params: Params, towers: Towers) -> nn.Module:
    """The recipe's, with the similarity of the initial weights if they were trained with one of its kind.

    Raises ArtifactError if that has other sizes.
    """
    objective = params.recipe.objective(towers)
    similarity: Similarity | None = getattr(objective, "similarity", None)
    if similarity and params.initial_weights:
        before = similarity_file.read(Path(params.initial_weights))
        if before and before.kind == similarity.kind:
            if before.sizes != similarity.sizes:
                raise ArtifactError(
                    f"pretrain.initial_weights: the {before.kind} of {params.initial_weights} has"
                    f" {before.sizes}, expected {similarity.sizes}; choose another checkpoint or set"
                    f" recipes.{params.recipe.name} to what it was trained with"
                )
            similarity.load_state_dict(before.state_dict())
    return objective
