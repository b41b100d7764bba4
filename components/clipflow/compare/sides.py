"""A side of a comparison: what is known of one run, from MLflow or from a report's folder."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipflow import params as params_file
from clipflow import store, track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import report as reports
from clipflow.track import files, reading, versions

REPORT_FILES = (reports.METRICS, reports.TABLES, reports.PLOTS)
MEASURED = re.compile(r"^(?!system/|train/|rewrite/|embeddings/)[^/]+/[^/]+/.+")
"""Metrics that say what a model can do, as fractions."""
CURVES = {"train/loss": "Loss", "train/lr": "Learning rate"}
LINEAGE = re.compile(r"^(git_sha|image_digest|.+_digest)$")

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Side:
    """One run. What is not known of it is empty."""

    label: str
    """What it is called; no two runs share one."""
    run_id: str | None
    params: dict[str, str]
    """By flat name, as MLflow has them: `lr`, `recipe.name`."""
    lineage: dict[str, str]
    """Commit, image, and digests of what it was trained on."""
    metrics: dict[str, float]
    curves: dict[str, Points]
    """By title: `(step, value)`."""
    report: Path | None
    """The report's folder, at least with its tables."""

    @functools.cached_property
    def samples(self) -> dict[str, NDArray[np.float32]]:
        """By metric, a value per sample."""
        return reports.samples(self.report) if self.report else {}

    @property
    def benchmarks(self) -> str | None:
        """The digest of what it was measured on."""
        return reports.benchmarks(self.report) if self.report else None


def read(texts: Sequence[str], scratch: Path, *, experiment: str | None = None) -> list[Side]:
    """The sides that are meant; what MLflow has of their reports is put into `scratch`.

    Each text is a report's folder or URL, MODEL@alias, a run's id or the beginning of one, or its name.
    Raises ArtifactError for another folder, TrackingError for a run that can't be found.
    """
    everything: list[Any] | None = None
    sides = []
    for text in texts:
        if store.is_url(text) or Path(text).is_dir():
            sides.append(of_report(store.at_hand(text), text))
        elif versions.is_name(text):
            sides.append(of_run(reading.behind(text), scratch, label=text))
        else:
            if everything is None:
                track.connect()
                everything = reading.runs(experiment)
            sides.append(of_run(reading.find(text, everything), scratch))
    return _told_apart(sides)


def of_run(run: Any, scratch: Path, *, label: str | None = None) -> Side:
    """A run of MLflow."""
    run_id = run.info.run_id
    report = files.report(run_id, REPORT_FILES, scratch / run_id)
    curves = {
        title: reading.history(run_id, name)
        for name, title in CURVES.items()
        if name in run.data.metrics
    }
    return Side(
        label=label or run.info.run_name,
        run_id=run_id,
        params=dict(run.data.params),
        lineage=_lineage(run.data.tags),
        metrics=_measured(reports.metrics(report) if report else run.data.metrics),
        curves=curves,
        report=report,
    )


def benchmarks(run: Any) -> str | None:
    """The digest of what a run of MLflow was measured on; None if it has no report."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = files.report(run.info.run_id, [], Path(scratch))
        return reports.benchmarks(folder) if folder else None


def of_report(folder: Path, label: str) -> Side:
    """A report's folder, with params and curves if the checkpoint that it is about lies beside it."""
    metrics = _measured(reports.metrics(folder))
    made_of = manifest.read(folder, reports.SCHEMA).get("checkpoint")
    checkpoint = folder.parent / "checkpoint"
    side = Side(label, None, {}, {}, metrics, {}, folder)
    if not (checkpoint / manifest.MANIFEST).is_file() or manifest.digest(checkpoint) != made_of:
        return side
    facts, provenance = checkpoints.read(checkpoint), checkpoints.provenance(checkpoint)
    return replace(
        side,
        run_id=provenance.get("mlflow_run_id"),
        params={k: str(v) for k, v in params_file.flattened(facts["params"]).items()},
        lineage=_lineage({k: v for k, v in provenance.items() if isinstance(v, str)}),
        curves=_history(checkpoint / checkpoints.HISTORY),
    )


def _measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if MEASURED.match(name)}


def _lineage(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if LINEAGE.match(name) and value != "none"}


def _history(path: Path) -> dict[str, Points]:
    if not path.is_file():
        return {}
    table = pq.read_table(path).to_pydict()
    found = {}
    for name, title in CURVES.items():
        points = zip(table["step"], table.get(name.removeprefix("train/"), ()), strict=False)
        found[title] = [(int(s), float(v)) for s, v in points if v is not None and isfinite(v)]
    return {title: points for title, points in found.items() if points}


def _told_apart(sides: Sequence[Side]) -> list[Side]:
    """The same, with a piece of the run's id, or a number, where labels are equal."""
    labels = [side.label for side in sides]
    return [
        replace(side, label=f"{side.label} ({(side.run_id or str(place))[:8]})")
        if labels.count(side.label) > 1
        else side
        for place, side in enumerate(sides, 1)
    ]
