"""The numbers of a report, each beside the champion's: tables, and the few to remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from clipflow import significance
from clipflow.evaluate.results import Results
from clipflow.significance import Interval, Samples

COLUMNS = {
    "top1_canonical": "First prompt",
    "top1": "All prompts",
    "top1_synonyms": "With synonyms",
    "mean_per_class": "Mean per class",
    "top5": "Top 5",
    "probe": "Linear probe",
}


OTHERS = {
    "compositional": 0.5,
    "out_of_distribution": 0.5,
    "calibration": None,
    "embeddings": None,
}
"""Kinds of metrics that a table of their own shows, and their chance."""


@dataclass(frozen=True)
class Value:
    """One metric beside the champion's; fractions."""

    ours: float
    theirs: float | None
    interval: Interval | None = None
    """Of ours, 95 %."""
    difference: Interval | None = None
    """Ours minus theirs by paired bootstrap, where both have values per sample."""

    @property
    def is_sure(self) -> bool:
        """Whether the difference to the champion's is more than chance."""
        return bool(self.difference and (self.difference.is_above or self.difference.is_below))

    @property
    def gain(self) -> float | None:
        """Ours minus the champion's, in percentage points as shown."""
        if self.theirs is None:
            return None
        return round(100 * self.ours, 1) - round(100 * self.theirs, 1)


@dataclass(frozen=True)
class Line:
    """A row of a table of metrics: a task, or the mean over tasks."""

    label: str
    samples: int | None
    chance: float | None
    values: dict[str, Value]
    """By column."""


class Comparison:
    """Ours beside the champion's, by full name."""

    def __init__(
        self,
        results: Results,
        intervals: Mapping[str, Interval],
        champion: Mapping[str, float],
        samples: Samples,
    ) -> None:
        """champion, samples: the champion's metrics and values per sample, or nothing."""
        self.metrics, self._own = results.metrics(), results.samples()
        self._intervals, self._champion, self._samples = intervals, champion, samples

    def value(self, name: str) -> Value:
        """One metric of ours. Raises KeyError if there is none."""
        theirs = self._champion.get(name)
        known = self._samples if theirs is not None else {}
        difference = significance.gain(name, self._own, known)
        return Value(self.metrics[name], theirs, self._intervals.get(name), difference)

    def values(self, names: Mapping[str, str]) -> dict[str, Value]:
        """Of those that we have, by column."""
        return {c: self.value(name) for c, name in names.items() if name in self.metrics}


def zero_shot(results: Results, compared: Comparison) -> list[Line]:
    """A line per classification task, and one of the mean."""
    lines = []
    for c in results.classifications:
        names = {column: f"zero_shot/{c.task}/{column}" for column in COLUMNS}
        names["probe"] = f"linear_probe/{c.task}/top1"
        values = compared.values(names)
        lines.append(Line(c.task, len(c.labels), 1 / len(c.classnames), values))
    names = {column: f"zero_shot/mean/{column}" for column in COLUMNS}
    names["probe"] = "linear_probe/mean/top1"
    return lines + _mean(f"Mean of {len(lines)} tasks", compared, lines, names)


def retrieval(results: Results, recall_at: Sequence[int], compared: Comparison) -> list[Line]:
    """A line per retrieval task and direction; chance is that of the smallest k."""
    lines = []
    for r in results.retrievals:
        for direction, ranks in r.ranks.items():
            names = {
                f"recall_at_{k}": f"retrieval/{r.task}/{direction}/recall_at_{k}" for k in recall_at
            }
            values = compared.values(names)
            label = f"{r.task}, {direction.replace('_', ' ')}"
            chance = r.chance[f"{direction}/{min(recall_at)}"]
            lines.append(Line(label, len(ranks), chance, values))
    names = {f"recall_at_{k}": f"retrieval/mean/recall_at_{k}" for k in recall_at}
    return lines + _mean("Mean, both ways", compared, lines, names)


def others(compared: Comparison) -> list[Line]:
    """A line per metric that is neither accuracy nor recall of a whole task."""
    return [
        Line(name, None, OTHERS[name.split("/")[0]], {"value": compared.value(name)})
        for name in sorted(compared.metrics)
        if name.split("/")[0] in OTHERS and name.split("/")[1] != "mean"
    ]


def robustness(results: Results, compared: Comparison) -> list[Line]:
    """A line per task: top-1 on its images as they are, and under each corruption, over severities."""
    lines = []
    for c in results.classifications:
        names = {kind: f"robustness/{c.task}/{kind}/top1" for kind in c.corrupted}
        values = compared.values({"clean": f"zero_shot/{c.task}/top1"} | names)
        if c.corrupted:
            lines.append(Line(c.task, len(c.labels), 1 / len(c.classnames), values))
    return lines


def _mean(
    label: str, compared: Comparison, lines: Sequence[Line], names: dict[str, str]
) -> list[Line]:
    if len(lines) < 2:
        return []
    chance = fmean(line.chance or 0.0 for line in lines)
    return [Line(label, None, chance, compared.values(names))]


def tiles(
    compared: Comparison, zero_shot: Sequence[Line], retrieval: Sequence[Line]
) -> list[tuple[str, Value, float | None]]:
    """The few numbers to remember: name, value, chance."""
    found = compared.metrics
    first = min((n for n in found if n.startswith("retrieval/mean/")), key=_k, default="")
    wanted = [
        ("Zero-shot top-1", "zero_shot/mean/top1", zero_shot),
        ("Linear probe top-1", "linear_probe/mean/top1", zero_shot),
        (f"Retrieval R@{_k(first)}" if first else "", first, retrieval),
    ]
    return [
        (label, compared.value(name), lines[-1].chance)
        for label, name, lines in wanted
        if name in found
    ]


def _k(name: str) -> int:
    return int(name.rsplit("_", 1)[1])
