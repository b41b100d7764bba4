"""The numbers of a report, each beside the champion's: tables, and the few to remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from clipflow.evaluate.results import Results

COLUMNS = {
    "top1_canonical": "First prompt",
    "top1": "All prompts",
    "top1_synonyms": "With synonyms",
    "mean_per_class": "Mean per class",
    "top5": "Top 5",
    "probe": "Linear probe",
}


@dataclass(frozen=True)
class Value:
    """One metric beside the champion's; fractions."""

    ours: float
    theirs: float | None

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
    chance: float
    values: dict[str, Value]
    """By column."""


def zero_shot(results: Results, compared: dict[str, float]) -> list[Line]:
    """A line per classification task. compared: the champion's metrics by full name, or nothing."""
    lines, found = [], results.metrics()
    for c in results.classifications:
        names = {column: f"zero_shot/{c.task}/{column}" for column in c.metrics}
        names |= {"probe": f"linear_probe/{c.task}/top1"} if c.task in results.probes else {}
        values = _values(found, compared, names)
        lines.append(Line(c.task, len(c.labels), 1 / len(c.classnames), values))
    names = {column: f"zero_shot/mean/{column}" for column in COLUMNS}
    names["probe"] = "linear_probe/mean/top1"
    return lines + _mean(f"Mean of {len(lines)} tasks", found, compared, lines, names)


def retrieval(results: Results, recall_at: Sequence[int], compared: dict[str, float]) -> list[Line]:
    """A line per retrieval task and direction; chance is that of the smallest k."""
    lines, found = [], results.metrics()
    for r in results.retrievals:
        for direction, ranks in r.ranks.items():
            names = {
                f"recall_at_{k}": f"retrieval/{r.task}/{direction}/recall_at_{k}" for k in recall_at
            }
            values = _values(found, compared, names)
            label = f"{r.task}, {direction.replace('_', ' ')}"
            chance = r.chance(direction, min(recall_at))
            lines.append(Line(label, len(ranks), chance, values))
    names = {f"recall_at_{k}": f"retrieval/mean/recall_at_{k}" for k in recall_at}
    return lines + _mean("Mean, both ways", found, compared, lines, names)


def _mean(
    label: str,
    found: dict[str, float],
    compared: dict[str, float],
    lines: Sequence[Line],
    names: dict[str, str],
) -> list[Line]:
    if len(lines) < 2:
        return []
    chance = fmean(line.chance for line in lines)
    return [Line(label, None, chance, _values(found, compared, names))]


def _values(
    found: dict[str, float], compared: dict[str, float], names: dict[str, str]
) -> dict[str, Value]:
    return {
        column: Value(found[name], compared.get(name))
        for column, name in names.items()
        if name in found
    }


def tiles(
    found: dict[str, float],
    compared: dict[str, float],
    zero_shot: Sequence[Line],
    retrieval: Sequence[Line],
) -> list[tuple[str, Value, float]]:
    """The few numbers to remember: name, value, chance."""
    first = min((n for n in found if n.startswith("retrieval/mean/")), key=_k, default="")
    wanted = [
        ("Zero-shot top-1", "zero_shot/mean/top1", zero_shot),
        ("Linear probe top-1", "linear_probe/mean/top1", zero_shot),
        (f"Retrieval R@{_k(first)}" if first else "", first, retrieval),
    ]
    return [
        (label, Value(found[name], compared.get(name)), lines[-1].chance)
        for label, name, lines in wanted
        if name in found
    ]


def _k(name: str) -> int:
    return int(name.rsplit("_", 1)[1])
