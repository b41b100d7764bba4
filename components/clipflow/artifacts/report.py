"""`report`: what a checkpoint can do, for machines and for people.

report/metrics.json      flat, fractions in [0, 1]: `zero_shot/<task>/top1`, `retrieval/<task>/...`
report/intervals.json    both ends of their 95 % bootstrap intervals: `{<metric>: [low, high]}`
report/report.html       self-contained page with pictures
report/tables/           what the pictures show: see evaluate/tables.py
report/plots/            what `dvc plots` draws
report/manifest.json     digests of the checkpoint and the benchmarks
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipflow.artifacts import manifest

SCHEMA = "clipflow.report/1"
PART = "clipflow.part_of_report/1"
"""What one task gave: see evaluate/parts.py."""
MATRIX_CLASSES = 50
"""Classes of the largest confusion matrix that is still looked at."""
METRICS = "metrics.json"
INTERVALS = "intervals.json"
PAGE = "report.html"
TABLES = "tables"
PLOTS = "plots"
"""What `dvc plots` draws: `confusion/<task>.csv`, `training.csv`."""
SAMPLES = "samples.parquet"
"""Columns `metric` (dictionary of names) and `value` (float32), in the order of the samples."""
OF_SAMPLES = (f"{TABLES}/{SAMPLES}",)
"""What `samples` reads of a report."""


def benchmarks(folder: Path) -> str:
    """The digest of what the report was measured on. Raises ArtifactError for another folder."""
    return str(manifest.read(folder, SCHEMA).get("benchmarks", "none"))


def metrics(folder: Path) -> dict[str, float]:
    """The metrics of a report. Raises ArtifactError for another kind of folder."""
    manifest.read(folder, SCHEMA)
    return dict(json.loads((folder / METRICS).read_text(encoding="utf-8")))


def intervals(folder: Path) -> dict[str, tuple[float, float]]:
    """Both ends of the 95 % interval of each metric that has one; none for older reports."""
    path = folder / INTERVALS
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: (low, high) for name, (low, high) in found.items()}


def confusion(folder: Path) -> tuple[list[str], list[list[int]]] | None:
    """Class names and counts (rows: actual) of the first task with few enough classes, or None."""
    manifest.read(folder, SCHEMA)
    tables = folder / TABLES
    if not (tables / "confusion.parquet").is_file():
        return None
    counts = pq.read_table(tables / "confusion.parquet").to_pylist()
    classes: dict[str, list[str]] = {}
    for row in pq.read_table(tables / "per_class.parquet", columns=["task", "class"]).to_pylist():
        classes.setdefault(row["task"], []).append(row["class"])
    for task, names in sorted(classes.items()):
        if len(names) <= MATRIX_CLASSES:
            place = {name: number for number, name in enumerate(names)}
            matrix = [[0] * len(names) for _ in names]
            for row in counts:
                if row["task"] == task:
                    matrix[place[row["actual"]]][place[row["predicted"]]] = row["count"]
            return names, matrix
    return None


def samples(folder: Path) -> dict[str, NDArray[np.float32]]:
    """By metric, a value per sample whose mean is the metric; empty for reports that don't have them."""
    path = folder / TABLES / SAMPLES
    if not path.is_file():
        return {}
    table = pq.read_table(path)
    names = table["metric"].combine_chunks()
    values = table["value"].to_numpy()
    found = names.indices.to_numpy()
    return {str(name): values[found == n] for n, name in enumerate(names.dictionary.to_pylist())}
