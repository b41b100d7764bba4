"""The pages of a comparison: one HTML file with its style and pictures in it; no network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from clipflow import page
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.compare import charts, differences, examples, text
from clipflow.compare.charts import Mark, Row
from clipflow.compare.differences import Metric
from clipflow.compare.groups import Groups
from clipflow.compare.sides import CURVES, Side

TILES = ("zero_shot/mean/top1", "retrieval/mean/recall_at_1", "linear_probe/mean/top1")
"""Metrics of the page's first lines."""
CHARTED = ("top1", "recall_at_1", "ece")
"""Metrics, by the last part of their names, of the chart of gains."""
KINDS = {"zero_shot": "Zero-shot", "retrieval": "Retrieval", "linear_probe": "Linear probe"}


def sides(found: Sequence[Side], *, benchmarks: Path | None = None) -> str:
    """The page for two or more sides.

    benchmarks: where pictures come from, if they are those on which the first was measured.
    """
    metrics = differences.metrics(found)
    at_hand = benchmarks_artifact.read(benchmarks) if benchmarks else []
    tasks = {task.name: task for task in at_hand}
    first = found[0]
    beside = [
        {
            "number": number,
            "side": side,
            "classes": examples.classes(first.report, side.report, tasks),
            "queries": examples.queries(first.report, side.report, tasks),
        }
        for number, side in enumerate(found)
        if side is not first
        and first.report
        and side.report
        and side.benchmarks == first.benchmarks
    ]
    return (
        _environment()
        .get_template("compare.html")
        .render(
            sides=found,
            params=differences.differing([side.params for side in found]),
            lineage=differences.differing([side.lineage for side in found]),
            trouble=differences.trouble(found),
            metrics=metrics,
            tiles=[metric for name in TILES for metric in metrics if metric.name == name],
            gains=_gains(metrics),
            curves=_curves(found),
            beside=beside,
            has_pictures=bool(tasks),
        )
    )


def groups(found: Groups, experiment: str) -> str:
    """The page for groups of runs."""
    panels = {
        name: charts.seeds(
            headed(name),
            [
                (group.name, [100 * value for value in group.cells[name].values.values()])
                for group in found.groups
                if name in group.cells
            ],
            unit="%",
        )
        for name in found.metrics
    }
    return (
        _environment()
        .get_template("groups.html")
        .render(found=found, experiment=experiment, panels=panels)
    )


def titled(name: str) -> str:
    """A metric as a person calls it: `Zero-shot, colours: top1`."""
    kind, task, *rest = name.split("/")
    said = " ".join(rest).replace("recall_at_", "R@").replace("_", " ")
    where = "mean over tasks" if task == "mean" else task
    return f"{KINDS.get(kind, kind.replace('_', ' ').capitalize())}, {where}: {said}"


def headed(name: str) -> str:
    """The same for a table's head: a mean over tasks needs no task."""
    return titled(name).replace(", mean over tasks:", "")


def _environment() -> Environment:
    environment = page.environment(Path(__file__).parent)
    environment.globals |= {
        "swatch": charts.swatch,
        "symbol": charts.symbol,
        "letter": text.letter,
        "words": text.LEGEND,
    }
    environment.filters |= {
        "points": text.points,
        "titled": titled,
        "headed": headed,
        "short": _short,
    }
    return environment


def _short(value: str | None, name: str) -> str:
    return text.short(name, value)


def _gains(metrics: Sequence[Metric]) -> Markup | None:
    """Gains over the first side with their intervals, a row for each metric; None if none is known."""
    rows = [
        Row(titled(metric.name), marks)
        for metric in metrics
        if metric.name.split("/")[-1] in CHARTED and (marks := _marks(metric))
    ]
    return charts.ranges("Gains", rows, unit="points", zero=True) if rows else None


def _marks(metric: Metric) -> list[Mark]:
    marks = []
    for number, value in enumerate(metric.values):
        if value.points is not None:
            mark = Mark(number, 100 * value.points)
            if value.gain:
                mark = replace(mark, low=100 * value.gain.low, high=100 * value.gain.high)
            marks.append(mark)
    return marks


def _curves(found: Sequence[Side]) -> dict[str, Any]:
    by_title = {
        title: [(n, side.curves[title]) for n, side in enumerate(found) if side.curves.get(title)]
        for title in CURVES.values()
    }
    return {title: charts.over_steps(title, lines) for title, lines in by_title.items() if lines}
