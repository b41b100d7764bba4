"""Runs in a real MLflow store, with reports of chosen answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipflow import track
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import report as reports

COLOURS = ["red", "green"]
ACTUAL = np.arange(40) % 2
"""Class indices of the samples of the task `colours`."""


def samples_table(by_metric: dict[str, Any]) -> pa.Table:
    numbers = [np.full(len(v), n, np.int32) for n, v in enumerate(by_metric.values())]
    names = pa.DictionaryArray.from_arrays(np.concatenate(numbers), pa.array(list(by_metric)))
    return pa.table(
        {"metric": names, "value": np.concatenate([*by_metric.values()]).astype(np.float32)}
    )


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A classification task whose images are as red or green as they say, and a retrieval task."""

    def picture(row: int) -> bytes:
        out = io.BytesIO()
        colour = [(200 - row, 0, 0), (0, 200 - row, 0)][row % 2]
        Image.new("RGB", (16, 16), colour).save(out, "JPEG")
        return out.getvalue()

    folder = tmp_path / "benchmarks"
    writer = benchmarks_artifact.Writer(folder)
    rows = [(picture(row), int(label)) for row, label in enumerate(ACTUAL)]
    writer.add_classification("colours", COLOURS, ["a {c} thing"], {"test": rows})
    writer.add_retrieval("scenes", [(picture(n), [f"caption {n}", f"other {n}"]) for n in range(4)])
    writer.close()
    return folder


@pytest.fixture
def make_report(tmp_path: Path, benchmarks: Path) -> Callable[..., Path]:
    """A report in which the samples `right` of `colours` are answered rightly."""

    def make(
        name: str,
        right: Any,
        *,
        ranks: tuple[int, ...] = (0, 1, 2, 3),
        measured_on: str | None = None,
        with_samples: bool = True,
    ) -> Path:
        folder = tmp_path / name
        (folder / reports.TABLES).mkdir(parents=True)
        is_right = np.isin(np.arange(len(ACTUAL)), list(right))
        top1 = float(is_right.mean())
        metrics = {"zero_shot/colours/top1": top1, "zero_shot/mean/top1": top1}
        manifest.write_json(folder / reports.METRICS, metrics)
        predicted = np.where(is_right, ACTUAL, 1 - ACTUAL)
        plots = folder / reports.PLOTS / "confusion"
        plots.mkdir(parents=True)
        with (plots / "colours.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["actual", "predicted"])
            writer.writerows(
                [COLOURS[a], COLOURS[p]] for a, p in zip(ACTUAL, predicted, strict=True)
            )
        table = [
            {"task": "scenes", "direction": "image_to_text", "query": n, "rank": rank}
            for n, rank in enumerate(ranks)
        ]
        pq.write_table(pa.Table.from_pylist(table), folder / reports.TABLES / "retrieval.parquet")
        if with_samples:
            values = samples_table({"zero_shot/colours/top1": is_right})
            pq.write_table(values, folder / reports.TABLES / reports.SAMPLES)
        digest = measured_on or manifest.digest(benchmarks)
        manifest.write(folder, reports.SCHEMA, benchmarks=digest, checkpoint="c" * 32)
        return folder

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., str]:
    """A finished run of the experiment `clipflow`; its id."""

    def make(
        name: str,
        report: Path | None = None,
        *,
        params: dict[str, Any] | None = None,
        metrics: dict[str, float] | None = None,
        tags: dict[str, str] | None = None,
        losses: tuple[float, ...] = (),
        status: str = "FINISHED",
    ) -> str:
        client = track.client()
        found = client.get_experiment_by_name("clipflow")
        place = (tmp_path / "files").as_uri()
        experiment = (
            found.experiment_id
            if found
            else client.create_experiment("clipflow", artifact_location=place)
        )
        run_id = str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        for key, value in (params or {}).items():
            client.log_param(run_id, key, value)
        for step, loss in enumerate(losses):
            client.log_metric(run_id, "train/loss", loss, step=10 * step)
        if report:
            client.log_artifacts(run_id, str(report), "report")
            metrics = {**reports.metrics(report), **(metrics or {})}
        for key, number in (metrics or {}).items():
            client.log_metric(run_id, key, number)
        client.set_terminated(run_id, status)
        return run_id

    return make
