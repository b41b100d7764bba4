"""The report's page: one HTML file with its style and pictures in it; no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup

from clipflow import page
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.evaluate import charts, comparison, metrics, pictures
from clipflow.evaluate.comparison import Line
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import Classification, Results
from clipflow.evaluate.subject import Subject
from clipflow.significance import Interval
from clipflow.track import Champion

if TYPE_CHECKING:
    from clipflow.evaluate.compose import Beside

TEMPLATE = "report.html"
EXTREMES = 6
"""Classes listed at either end of a per-class table."""
LEGEND = {
    "chance": "chance",
    "canonical": "first prompt alone",
    "ensemble": "all prompts; retrieval",
    "synonyms": "with synonyms",
    "probe": "linear probe",
    "champion": "champion, all prompts; retrieval",
}
"""What each kind of mark in the chart of all tasks means."""
CURVES = {
    "loss": "Loss",
    "logit_scale": "Logit scale",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "samples_per_second": "Samples per second",
}


def render(
    params: Params,
    subject: Subject,
    results: Results,
    intervals: Mapping[str, Interval],
    beside: Beside,
) -> str:
    """The page as text."""
    count, champion = params.gallery_size, beside.champion
    environment = page.environment(Path(__file__).parent)
    environment.globals["symbol"] = charts.symbol
    theirs = champion.metrics if champion else {}
    compared = comparison.Comparison(results, intervals, theirs, beside.samples)
    zero_shot = comparison.zero_shot(results, compared)
    retrieval = comparison.retrieval(results, params.recall_at, compared)
    rows = _rows(zero_shot, retrieval, min(params.recall_at))
    return environment.get_template(TEMPLATE).render(
        subject=subject,
        model=params.champion,
        champion=champion,
        elsewhere=beside.elsewhere,
        paired=bool(beside.samples),
        tiles=comparison.tiles(compared, zero_shot, retrieval),
        zero_shot=zero_shot,
        retrieval=retrieval,
        columns={
            column: title
            for column, title in comparison.COLUMNS.items()
            if any(column in line.values for line in zero_shot)
        },
        recall_at=sorted(params.recall_at),
        legend={
            kind: label
            for kind, label in LEGEND.items()
            if kind == "chance" or any(kind in row.marks for row in rows)
        },
        dots=charts.dots(rows),
        few_shot={
            c.task: charts.few_shot(
                c.task, c.few_shot, compared.metrics[f"zero_shot/{c.task}/top1"]
            )
            for c in results.classifications
            if c.few_shot
        },
        robustness=comparison.robustness(results, compared),
        corruptions=params.robustness.corruptions,
        reliability={
            c.task: charts.reliability(c.task, c.reliability) for c in results.classifications
        },
        others=comparison.others(compared),
        compositional=[c for c in results.compositional if c.examples],
        curves=_curves(subject.file(checkpoint_artifact.HISTORY), champion),
        confusions=[_confusion(c) for c in results.classifications],
        mistakes={c.task: pictures.mistakes(c) for c in results.classifications},
        galleries={r.task: pictures.queries(r) for r in results.retrievals},
        examples=_examples(subject.file(checkpoint_artifact.EXAMPLES), count),
    )


def _rows(zero_shot: Sequence[Line], retrieval: Sequence[Line], k: int) -> list[charts.Row]:
    kinds = {"top1_canonical": "canonical", "top1_synonyms": "synonyms", "probe": "probe"}
    kinds |= {"top1": "ensemble", f"recall_at_{k}": "ensemble"}
    rows = []
    for line in (*zero_shot, *retrieval):
        main = line.values.get("top1") or line.values[f"recall_at_{k}"]
        marks = {} if main.theirs is None else {"champion": main.theirs}
        marks |= {kind: line.values[c].ours for c, kind in kinds.items() if c in line.values}
        rows.append(charts.Row(line.label, line.chance or 0.0, marks, main.interval))
    return rows


def _curves(path: Path | None, champion: Champion | None) -> dict[str, Markup]:
    if path is None:
        return {}
    table = pq.read_table(path).to_pydict()
    curves = {}
    for column, title in CURVES.items():
        points = zip(table["step"], table.get(column, ()), strict=False)
        ours = [(step, value) for step, value in points if value is not None and isfinite(value)]
        theirs = champion.history if champion and column == "loss" else []
        if ours:
            curves[title] = charts.curve(title, ours, theirs)
    return curves


def _confusion(result: Classification) -> dict[str, Any]:
    counts, names = result.confusion, np.array(result.classnames)
    shown = charts.most_confused(counts)
    accuracy = metrics.per_class_accuracy(counts)
    wrong = counts - np.diag(counts.diagonal())
    rows = [
        {
            "name": names[i],
            "accuracy": accuracy[i],
            "instead": names[wrong[i].argmax()] if wrong[i].any() else "",
        }
        for i in np.argsort(-accuracy, kind="stable")
        if counts[i].any()
    ]
    return {
        "task": result.task,
        "num_classes": len(names),
        "num_shown": len(shown),
        "svg": charts.confusion(counts, result.classnames, shown),
        "rows": rows if len(rows) <= 2 * EXTREMES else rows[:EXTREMES] + rows[-EXTREMES:],
        "is_whole": len(rows) <= 2 * EXTREMES,
    }


def _examples(path: Path | None, count: int) -> list[dict[str, Any]]:
    if path is None:
        return []
    rows = pq.read_table(path).slice(0, count).to_pylist()
    return [{**row, "image": pictures.thumbnail(row["image"])} for row in rows]
