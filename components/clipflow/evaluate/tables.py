"""The tables of a report: what its pictures show, for further analysis.

    tables/confusion.parquet         task, actual, predicted, count
    tables/per_class.parquet         task, class, num_samples, top1
    tables/retrieval.parquet         task, direction, query, rank (0 is the best)
    tables/samples.parquet           metric, value: a row per sample, whose mean is the metric
    tables/few_shot.parquet          task, shots, draw, top1
    tables/robustness.parquet        task, corruption, severity, top1
    plots/confusion/<task>.csv       for `dvc plots`: actual, predicted, a row per sample
    plots/training.csv               for `dvc plots`: step, loss, lr

Predictions are those of the ensemble of all templates.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipflow.artifacts.report import SAMPLES
from clipflow.evaluate import metrics
from clipflow.evaluate.results import Classification, Results, Retrieval


def write(folder: Path, results: Results, severities: Sequence[int]) -> None:
    """Fill `folder`; a table without rows is not written. severities: those of corruptions."""
    folder.mkdir()
    pq.write_table(samples(results), folder / SAMPLES)
    few = [
        {"task": c.task, "shots": int(shots), "draw": draw, "top1": top1}
        for c in results.classifications
        for shots, draws in c.few_shot.items()
        for draw, top1 in enumerate(draws)
    ]
    worse = [
        {"task": c.task, "corruption": kind, "severity": severity, "top1": top1}
        for c in results.classifications
        for kind, of_severity in c.corrupted.items()
        for severity, top1 in zip(severities, of_severity, strict=True)
    ]
    _write(folder / "few_shot.parquet", [pa.Table.from_pylist(few)] if few else [])
    _write(folder / "robustness.parquet", [pa.Table.from_pylist(worse)] if worse else [])
    _write(folder / "confusion.parquet", [confusion(c) for c in results.classifications])
    _write(folder / "per_class.parquet", [per_class(c) for c in results.classifications])
    _write(folder / "retrieval.parquet", [ranks(r) for r in results.retrievals])


def write_plots(folder: Path, results: Results, history: Path | None) -> None:
    """Fill `folder` with what DVC draws. history: the checkpoint's, if it has one."""
    (folder / "confusion").mkdir(parents=True)
    for c in results.classifications:
        names = np.array(c.classnames)
        rows = zip(names[c.labels], names[c.predicted], strict=True)
        _write_csv(folder / "confusion" / f"{c.task}.csv", ("actual", "predicted"), rows)
    if history:
        columns = ("step", "loss", "lr")
        table = pq.read_table(history, columns=list(columns)).to_pydict()
        _write_csv(folder / "training.csv", columns, zip(*table.values(), strict=True))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def samples(results: Results) -> pa.Table:
    """The value of each sample in each metric, in the order of the samples."""
    by_name = results.samples()
    numbers = [np.full(len(values), n, np.int32) for n, values in enumerate(by_name.values())]
    indices = pa.array(np.concatenate(numbers or [np.empty(0, np.int32)]))
    values = np.concatenate([*by_name.values(), np.empty(0, np.float32)]).astype(np.float32)
    names = pa.DictionaryArray.from_arrays(indices, pa.array(list(by_name), pa.string()))
    return pa.table({"metric": names, "value": values})


def confusion(result: Classification) -> pa.Table:
    """The confusion matrix in long form, without its zeros."""
    counts = result.confusion
    actual, predicted = counts.nonzero()
    names = np.array(result.classnames)
    return pa.table(
        {
            "task": [result.task] * len(actual),
            "actual": names[actual],
            "predicted": names[predicted],
            "count": counts[actual, predicted],
        }
    )


def per_class(result: Classification) -> pa.Table:
    """The accuracy of each class; null for a class without samples."""
    counts = result.confusion
    return pa.table(
        {
            "task": [result.task] * len(counts),
            "class": result.classnames,
            "num_samples": counts.sum(axis=1),
            "top1": pa.array(metrics.per_class_accuracy(counts), from_pandas=True),
        }
    )


def ranks(result: Retrieval) -> pa.Table:
    """The rank of the right answer of each query, both ways."""
    return pa.concat_tables(
        pa.table(
            {
                "task": [result.task] * len(ranks),
                "direction": [direction] * len(ranks),
                "query": np.arange(len(ranks)),
                "rank": ranks,
            }
        )
        for direction, ranks in result.ranks.items()
    )


def _write(path: Path, parts: Sequence[pa.Table]) -> None:
    if parts:
        pq.write_table(pa.concat_tables(parts), path)
