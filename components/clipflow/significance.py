"""How sure a metric is, and whether two models differ: bootstrap intervals from per-sample values.

A metric is the mean of a value per sample of its task: 1 for a right answer, 0 for a wrong one. Samples
are drawn anew with replacement, DRAWS times, within each task; the interval holds the middle 95 % of what
that gives (Efron and Tibshirani 1993, chapter 13). Two models on the same samples are compared by the
differences of their values (paired bootstrap: Koehn 2004, section 3), which is far sharper than two
intervals.

Metrics are called `<kind>/<task>/.../<metric>`; `<kind>/mean/<metric>` is the mean of all that have its
kind and metric. What is measured twice on the same samples (retrieval, both ways) is drawn together.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
"""Resamples: the ends of a 95 % interval then move by about 3 % of its width from seed to seed."""
LEVEL = 0.95

Values = NDArray[np.floating[Any]]
Samples = Mapping[str, Values]
"""By the metric's name, [samples]: values whose mean is the metric."""


@dataclass(frozen=True)
class Interval:
    """A metric, or the gain in one, and what it could also have been."""

    value: float
    low: float
    high: float

    @property
    def is_above(self) -> bool:
        """Whether it is surely above zero."""
        return self.low > 0

    @property
    def is_below(self) -> bool:
        """Whether it is surely below zero."""
        return self.high < 0


def interval(name: str, samples: Samples, *, level: float = LEVEL) -> Interval | None:
    """The interval of a metric, or of a mean over tasks; None if nothing is known of its samples."""
    return _interval(_by_task(name, samples), level)


def gain(name: str, ours: Samples, theirs: Samples, *, level: float = LEVEL) -> Interval | None:
    """Ours minus theirs in a metric that both measured on the same samples.

    None where either has no values of it, or of a task of the mean, or another number of them.
    """
    mine, other = _by_task(name, ours), _by_task(name, theirs)
    if mine.keys() != other.keys() or any(len(mine[t]) != len(other[t]) for t in mine):
        return None
    return _interval({task: mine[task] - other[task] for task in mine}, level)


def intervals(names: Iterable[str], samples: Samples) -> dict[str, Interval]:
    """The intervals of all metrics whose samples are known."""
    found = {name: interval(name, samples) for name in names}
    return {name: known for name, known in found.items() if known}


def _by_task(name: str, samples: Samples) -> dict[str, Values]:
    """The values of each task that make the metric; those of the same samples are one, their mean."""
    kind, _, rest = name.partition("/")
    if not rest.startswith("mean/"):
        task = rest.partition("/")[0]
        return {task: np.asarray(samples[name], np.float64)} if name in samples else {}
    metric = rest.removeprefix("mean/")
    parts: dict[str, list[Values]] = {}
    for other, values in samples.items():
        if other.startswith(f"{kind}/") and other.endswith(f"/{metric}"):
            its_task = other.split("/")[1]
            parts.setdefault(its_task, []).append(np.asarray(values, np.float64))
    return {task: np.mean(values, axis=0) for task, values in parts.items()}


def _interval(by_task: Mapping[str, Values], level: float) -> Interval | None:
    if not by_task or any(len(values) == 0 for values in by_task.values()):
        return None
    means = np.mean([_resampled(task, values) for task, values in by_task.items()], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([v.mean() for v in by_task.values()])), float(low), float(high))


def _resampled(task: str, values: Values) -> Values:
    """[DRAWS], the means of resamples. Few values are distinct, so that counts of them are drawn."""
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(zlib.crc32(task.encode()))
    means = np.empty(DRAWS)
    block = max(1, (1 << 22) // len(distinct))
    for start in range(0, DRAWS, block):
        size = min(block, DRAWS - start)
        drawn = generator.multinomial(len(values), counts / len(values), size)
        means[start : start + size] = drawn @ distinct / len(values)
    return means
