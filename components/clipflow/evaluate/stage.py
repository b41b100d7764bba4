"""The evaluate stage: `checkpoint` on `benchmarks` -> `report`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clipflow import track
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ParamsError, did_you_mean
from clipflow.evaluate import compose, embed, parts, probe, retrieval, zero_shot
from clipflow.evaluate.compose import Beside
from clipflow.evaluate.embed import Embedder
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import Model, Results

logger = logging.getLogger(__name__)


def run(
    params: Params, *, checkpoint: Path, benchmarks: Path, report: Path, task: str | None = None
) -> None:
    """Measure every task of `benchmarks`; write metrics, tables and a page with pictures.

    They are also logged to the MLflow run that trained the checkpoint. With `task`, only that one is
    measured, and `report` becomes a part for `merge`. Raises ParamsError for a task that there is not.
    """
    facts = checkpoint_artifact.read(checkpoint)
    tasks = benchmarks_artifact.read(benchmarks)
    beside = None
    if task is None:
        track.connect()
        beside = Beside.find(params.champion, benchmarks)
    else:
        tasks = [one for one in tasks if one.name == task] or _no_such(task, benchmarks)
    embedder = embed.load(checkpoint, params.batch_size)
    logger.info(
        "%s (%s, %s) on %s: %s%s",
        checkpoint,
        facts["recipe"],
        facts["architecture"],
        embedder.device,
        ", ".join(one.name for one in tasks),
        f"; beside it: {beside.describe(params.champion)}" if beside else "",
    )
    results = measure(params, embedder, tasks)
    model = Model(sum(p.numel() for p in embedder.model.parameters()), embedder.logit_scale)
    paths = {"checkpoint": checkpoint, "benchmarks": benchmarks}
    if beside:
        compose.write(params, results, model, beside, **paths, report=report)
    else:
        parts.write(report, params, results, model, **paths)


def measure(params: Params, embedder: Embedder, tasks: Sequence[Task]) -> Results:
    """Measure every task; each image is embedded once."""
    results = Results()
    for task in tasks:
        encode = partial(embedder.texts, what=f"{task.name}/texts")
        images, notes = embedder.images(task, "test")
        if task.kind == "retrieval":
            captions = retrieval.captions(task, "test", notes)
            found = retrieval.retrieve(task, encode, images, captions, params.recall_at)
            results.retrievals.append(found)
            continue
        labels = zero_shot.labels(task, "test", notes)
        results.classifications.append(zero_shot.classify(task, encode, images, labels))
        if params.probe_c and "train" in task.splits:
            train, notes = embedder.images(task, "train")
            train_labels = zero_shot.labels(task, "train", notes)
            results.probes[task.name] = probe.accuracy(
                train, train_labels, images, labels, params.probe_c
            )
    return results


def _no_such(task: str, benchmarks: Path) -> list[Task]:
    known = benchmarks_artifact.names(benchmarks)
    raise ParamsError(f"--task: {benchmarks} has no '{task}'; {did_you_mean(task, known)}")
