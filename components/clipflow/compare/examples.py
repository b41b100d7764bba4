"""Where two sides differ, sample by sample: classes won and lost, and queries whose rank moved."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from clipflow.artifacts import report as reports
from clipflow.artifacts.benchmarks import Task
from clipflow.evaluate.pictures import thumbnails

CLASSES = 5
"""Classes listed at either end."""
PICTURES = 4
"""Images, or queries, shown at either end."""


@dataclass(frozen=True)
class Class:
    """A class of a task; `won` samples only the other side got right, `lost` only the first."""

    name: str
    num_samples: int
    first: float
    other: float
    won: int
    lost: int


@dataclass(frozen=True)
class Image:
    """A test image that one of two sides got right."""

    row: int
    actual: str
    instead: str
    """What the side that got it wrong took it for."""
    picture: str | None


@dataclass(frozen=True)
class Classes:
    """A classification task: classes by what was won on balance, most first."""

    task: str
    rows: list[Class]
    is_whole: bool
    """Whether all classes are listed, not only those at either end."""
    won: list[Image]
    lost: list[Image]


@dataclass(frozen=True)
class Query:
    """A retrieval query and the rank, from 1, of its best right answer on both sides."""

    text: str
    picture: str | None
    first: int
    other: int


@dataclass(frozen=True)
class Queries:
    """One direction of a retrieval task: how many queries moved, and those that moved most."""

    task: str
    direction: str
    num_queries: int
    num_up: int
    num_down: int
    up: list[Query] = field(default_factory=list)
    down: list[Query] = field(default_factory=list)


def classes(first: Path, other: Path, tasks: Mapping[str, Task]) -> list[Classes]:
    """The classification tasks of two reports on the same benchmarks; pictures from `tasks`."""
    found = []
    for path in sorted((first / reports.PLOTS / "confusion").glob("*.csv")):
        beside = other / reports.PLOTS / "confusion" / path.name
        if not beside.is_file():
            continue
        task = path.stem
        (actual, ours), (same, theirs) = _predictions(path), _predictions(beside)
        if np.array_equal(actual, same):
            found.append(_classes(task, actual, ours, theirs, tasks.get(task)))
    return found


def _classes(
    task: str,
    actual: np.ndarray,
    first: np.ndarray,
    other: np.ndarray,
    source: Task | None,
) -> Classes:
    """actual, first, other: [samples], names of classes."""
    before, after = first == actual, other == actual
    rows = []
    for name in np.unique(actual):
        own = actual == name
        won, lost = int((after & ~before & own).sum()), int((before & ~after & own).sum())
        first_share, other_share = float(before[own].mean()), float(after[own].mean())
        rows.append(Class(str(name), int(own.sum()), first_share, other_share, won, lost))
    rows.sort(key=lambda c: (c.other - c.first, c.won), reverse=True)
    is_whole = len(rows) <= 2 * CLASSES
    gained = _spread(np.flatnonzero(after & ~before), actual)
    missed = _spread(np.flatnonzero(before & ~after), actual)
    pictures = thumbnails(source, [*gained, *missed]) if source else {}
    return Classes(
        task,
        rows if is_whole else rows[:CLASSES] + rows[-CLASSES:],
        is_whole,
        [Image(r, str(actual[r]), str(first[r]), pictures.get(str(r))) for r in gained],
        [Image(r, str(actual[r]), str(other[r]), pictures.get(str(r))) for r in missed],
    )


def _spread(rows: np.ndarray, actual: np.ndarray) -> list[int]:
    """The first rows of as many classes as can be, PICTURES at most."""
    seen: dict[str, int] = {}
    order = []
    for row in rows.tolist():
        name = str(actual[row])
        seen[name] = seen.get(name, -1) + 1
        order.append((seen[name], row))
    return [row for _, row in sorted(order)[:PICTURES]]


def _predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return np.array([r["actual"] for r in rows]), np.array([r["predicted"] for r in rows])


def queries(first: Path, other: Path, tasks: Mapping[str, Task]) -> list[Queries]:
    """The retrieval tasks of two reports on the same benchmarks, each direction.

    Moved most is what changed by the largest factor: from rank 1 to 10 is as far as from 10 to 100.
    """
    ours, theirs = _ranks(first), _ranks(other)
    found = []
    for (task, direction), before in ours.items():
        after = theirs.get((task, direction))
        if after is None or len(after) != len(before):
            continue
        factor = np.log((before + 1) / (after + 1))
        order = np.argsort(-factor, kind="stable")
        up = [int(q) for q in order[:PICTURES] if factor[q] > 0]
        down = [int(q) for q in order[::-1][:PICTURES] if factor[q] < 0]
        texts = _texts(tasks.get(task), direction, [*up, *down])
        shown = {
            q: Query(*texts.get(q, (f"query {q}", None)), int(before[q]) + 1, int(after[q]) + 1)
            for q in (*up, *down)
        }
        found.append(
            Queries(
                task,
                direction.replace("_", " "),
                len(before),
                int((factor > 0).sum()),
                int((factor < 0).sum()),
                [shown[q] for q in up],
                [shown[q] for q in down],
            )
        )
    return found


def _ranks(report: Path) -> dict[tuple[str, str], np.ndarray]:
    """By task and direction: [queries], ranks from 0."""
    path = report / reports.TABLES / "retrieval.parquet"
    if not path.is_file():
        return {}
    table = pq.read_table(path, columns=["task", "direction", "rank"])
    keys = list(zip(table["task"].to_pylist(), table["direction"].to_pylist(), strict=True))
    found: dict[tuple[str, str], list[int]] = {}
    for key, rank in zip(keys, table["rank"].to_pylist(), strict=True):
        found.setdefault(key, []).append(rank)
    return {key: np.array(ranks) for key, ranks in found.items()}


def _texts(
    source: Task | None, direction: str, wanted: list[int]
) -> dict[int, tuple[str, str | None]]:
    """By query: its caption (of an image, its first one) and the picture."""
    if source is None or not wanted:
        return {}
    owners: dict[int, tuple[int, str]] = {}
    count = 0
    for row, (_, note) in enumerate(source.samples("test")):
        captions = [line for line in note.decode().splitlines() if line.strip()]
        if direction == "image_to_text":
            owners[row] = (row, captions[0])
        else:
            owners |= {count + n: (row, text) for n, text in enumerate(captions)}
            count += len(captions)
    owners = {q: owners[q] for q in wanted if q in owners}
    pictures = thumbnails(source, [row for row, _ in owners.values()])
    return {q: (text, pictures.get(str(row))) for q, (row, text) in owners.items()}
