"""What differs between sides: params, lineage, metrics, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clipflow.compare.sides import Side
from clipflow.significance import Interval, gain, interval

LOWER_IS_BETTER = frozenset({"ece"})
"""Metrics, by the last part of their names, of which less is better."""

Verdict = Literal["better", "worse", "unclear", "unknown"]
"""Surely better or worse, by the 95 % interval; can't be told; nothing is known of the samples."""


@dataclass(frozen=True)
class Value:
    """A metric of one side, and what it gains over the first. Fractions."""

    value: float | None
    sure: Interval | None
    """Where it could also be, with 95 % confidence."""
    points: float | None
    """The gain by the metrics alone; None if either lacks the metric, or it can't be compared."""
    gain: Interval | None
    """The gain by paired bootstrap."""
    verdict: Verdict


@dataclass(frozen=True)
class Metric:
    """A metric of all sides, in their order; the first has no gain."""

    name: str
    values: list[Value]

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean over tasks."""
        return "/mean/" in self.name


def differing(by_side: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """The names whose values are not the same on all sides, with the values; None where there is none.

    Sides of which nothing is known don't count.
    """
    known = [values for values in by_side if values]
    names = sorted({name for values in known for name in values})
    return {
        name: [values.get(name) for values in by_side]
        for name in names
        if len({values.get(name) for values in known}) > 1
    }


def trouble(sides: Sequence[Side]) -> str | None:
    """Why the metrics can't be compared, in words; None if they can."""
    digests = [side.benchmarks for side in sides]
    first = digests[0]
    if others := [s for s, d in zip(sides, digests, strict=True) if first and d and d != first]:
        names = ", ".join(side.label for side in others)
        return (
            f"{names}: measured on other benchmarks than {sides[0].label}, so metrics are not compared;"
            " evaluate them on the same ones"
        )
    if unknown := [side.label for side in sides if not side.benchmarks]:
        return (
            f"{', '.join(unknown)}: no report is with the run, so it isn't known on which benchmarks its"
            " metrics were measured, and they are not compared; evaluate it again"
        )
    return None


def metrics(sides: Sequence[Side]) -> list[Metric]:
    """Every metric of any side, means first, with gains where the benchmarks are those of the first."""
    names = {name for side in sides for name in side.metrics}
    ordered = sorted(names, key=lambda name: ("/mean/" not in name, _kind_order(name), name))
    return [Metric(name, [_value(name, side, sides[0]) for side in sides]) for name in ordered]


def _kind_order(name: str) -> int:
    kinds = ("zero_shot", "retrieval", "linear_probe")
    kind = name.split("/")[0]
    return kinds.index(kind) if kind in kinds else len(kinds)


def _value(name: str, side: Side, first: Side) -> Value:
    ours, theirs = side.metrics.get(name), first.metrics.get(name)
    sure = interval(name, side.samples) if ours is not None else None
    same = side.benchmarks is not None and side.benchmarks == first.benchmarks
    if side is first or ours is None or theirs is None or not same:
        return Value(ours, sure, None, None, "unknown")
    found = gain(name, side.samples, first.samples)
    return Value(ours, sure, ours - theirs, found, verdict(name, found))


def verdict(name: str, found: Interval | None) -> Verdict:
    """What a gain's interval says, by the direction in which the metric is better."""
    if found is None:
        return "unknown"
    if not (found.is_above or found.is_below):
        return "unclear"
    return "better" if found.is_above != (name.split("/")[-1] in LOWER_IS_BETTER) else "worse"
