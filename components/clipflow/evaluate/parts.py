"""A part of an evaluation: what one benchmark task gave, in a form that another machine can go on with.

part/manifest.json    checkpoint, benchmarks and params; the task's metrics, class names or captions
part/arrays.npz       labels and similarities, or embeddings and ranks
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import report as report_artifact
from clipflow.errors import ArtifactError
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import Model, Results
from clipflow.evaluate.retrieval import Direction, Retrieval
from clipflow.evaluate.zero_shot import Classification

logger = logging.getLogger(__name__)

SCHEMA = report_artifact.PART
ARRAYS = "arrays.npz"


def write(
    out: Path, params: Params, results: Results, model: Model, *, checkpoint: Path, benchmarks: Path
) -> None:
    """Write the part of one task."""
    task, kind, facts, arrays = _taken_apart(results)
    with manifest.complete_or_absent(out) as folder:
        np.savez(folder / ARRAYS, allow_pickle=False, **arrays)
        manifest.write(
            folder,
            SCHEMA,
            task=task,
            kind=kind,
            facts=facts,
            model={"num_parameters": model.num_parameters, "logit_scale": model.logit_scale},
            sha256=manifest.file_digest(folder / ARRAYS),
            **_made_with(params, checkpoint, benchmarks),
        )
    found = {name: value for name, value in results.metrics().items() if "/mean/" not in name}
    logger.info("wrote %s: %s", out, ", ".join(f"{k} {v:.3f}" for k, v in sorted(found.items())))


def read(
    parts: Sequence[Path], params: Params, *, checkpoint: Path, benchmarks: Path
) -> tuple[Results, Model]:
    """The results of all tasks, in the order of one run over all.

    Raises ArtifactError for a part of another checkpoint, of other benchmarks or params, for two parts of
    one task, for a damaged part, and for a task without a part.
    """
    expected = _made_with(params, checkpoint, benchmarks)
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for part in parts:
        facts = manifest.read(part, SCHEMA)
        for name, value in expected.items():
            if facts[name] != value:
                raise ArtifactError(
                    f"{part}: made with {name} {facts[name]}, expected {value};"
                    " merge only what 'clipflow evaluate --task' made with these"
                )
        if facts["task"] in found:
            other, _ = found[facts["task"]]
            raise ArtifactError(f"{part}: task '{facts['task']}' is also in {other}; leave one out")
        found[facts["task"]] = part, facts
    names = benchmarks_artifact.names(benchmarks)
    if missing := [name for name in names if name not in found]:
        raise ArtifactError(
            f"{benchmarks}: no part has {', '.join(missing)}; make it with"
            f" 'clipflow evaluate --task {missing[0]}'"
        )
    results = Results()
    for name in names:
        _put_together(results, *found[name])
    return results, Model(**found[names[0]][1]["model"])


def _made_with(params: Params, checkpoint: Path, benchmarks: Path) -> dict[str, Any]:
    return {
        "checkpoint": manifest.digest(checkpoint),
        "benchmarks": manifest.digest(benchmarks),
        "params": params.model_dump(mode="json"),
    }


def _taken_apart(results: Results) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Name, kind, facts and arrays of the one task in `results`."""
    for c in results.classifications:
        facts: dict[str, Any] = {"classnames": c.classnames, "metrics": c.metrics}
        facts |= {"probe": results.probes[c.task]} if c.task in results.probes else {}
        arrays = {"labels": c.labels, "similarity": c.similarity}
        return c.task, "classification", facts, arrays
    (r,) = results.retrievals
    arrays = {"image_of_caption": r.image_of_caption, "images": r.images, "texts": r.texts}
    return r.task, "retrieval", {"captions": r.captions, "metrics": r.metrics}, arrays | r.ranks


def _put_together(results: Results, part: Path, stored: dict[str, Any]) -> None:
    path, task, facts = part / ARRAYS, stored["task"], stored["facts"]
    if not path.is_file() or manifest.file_digest(path) != stored["sha256"]:
        raise ArtifactError(
            f"{path}: missing or damaged; make it again with 'clipflow evaluate --task {task}'"
        )
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if stored["kind"] == "classification":
        results.classifications.append(
            Classification(task, facts["classnames"], facts["metrics"], **arrays)
        )
        if "probe" in facts:
            results.probes[task] = facts["probe"]
        return
    own = {name: arrays.pop(name) for name in ("image_of_caption", "images", "texts")}
    ranks = cast(dict[Direction, Any], arrays)
    results.retrievals.append(
        Retrieval(task, facts["captions"], ranks=ranks, metrics=facts["metrics"], **own)
    )
