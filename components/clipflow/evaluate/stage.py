"""The evaluate stage: `checkpoint` on `benchmarks` -> `report`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clipflow import track
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import report as report_artifact
from clipflow.artifacts.benchmarks import Task
from clipflow.evaluate import embed, page, probe, retrieval, tables, zero_shot
from clipflow.evaluate.embed import Embedder
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import Results

logger = logging.getLogger(__name__)


def run(params: Params, *, checkpoint: Path, benchmarks: Path, report: Path) -> None:
    """Measure every task of `benchmarks`; write metrics, tables and a page with pictures.

    They are also logged to the MLflow run that trained the checkpoint.
    """
    track.connect()
    facts = checkpoint_artifact.read(checkpoint)
    run_id = checkpoint_artifact.provenance(checkpoint)["mlflow_run_id"]
    tasks = benchmarks_artifact.read(benchmarks)
    embedder = embed.load(checkpoint, params.batch_size)
    measured_on = manifest.digest(benchmarks)
    champion = track.champion_history(params.champion, "train/loss")
    elsewhere = champion if champion and champion.benchmarks != measured_on else None
    logger.info(
        "%s (%s, %s) on %s: %s; beside it: %s",
        checkpoint,
        facts["recipe"],
        facts["architecture"],
        embedder.device,
        ", ".join(task.name for task in tasks),
        f"{params.champion} version {champion.version}"
        + (" (measured on other benchmarks: not compared)" if elsewhere else "")
        if champion
        else "no champion yet",
    )
    results = measure(params, embedder, tasks)
    metrics = results.metrics()
    with manifest.complete_or_absent(report) as folder:
        manifest.write_json(folder / report_artifact.METRICS, metrics)
        tables.write(folder / report_artifact.TABLES, results)
        html = page.render(
            params,
            checkpoint,
            facts,
            tasks,
            embedder,
            results,
            champion=None if elsewhere else champion,
            elsewhere=elsewhere,
        )
        (folder / report_artifact.PAGE).write_text(html, encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest.write(
            folder,
            report_artifact.SCHEMA,
            checkpoint=manifest.digest(checkpoint),
            benchmarks=measured_on,
            sha256={str(path.relative_to(folder)): manifest.file_digest(path) for path in files},
        )
        with track.reopen(run_id, name=facts["recipe"]) as mlflow_run:
            mlflow_run.log(metrics, facts["params"]["steps"])
            mlflow_run.log_artifacts(folder, "report")
    logger.info(
        "wrote %s: %s",
        report,
        ", ".join(f"{k} {v:.3f}" for k, v in sorted(headline(metrics).items())),
    )


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


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The means over tasks."""
    return {name: value for name, value in metrics.items() if "/mean/" in name}
