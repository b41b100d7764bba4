"""What evaluating a checkpoint gave, and its metrics by their full names.

A metric is called `<kind>/<task>/.../<metric>`; `<kind>/mean/<metric>` is the mean of all that have its
kind and metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipflow import significance
from clipflow.evaluate import metrics
from clipflow.evaluate.metrics import Indices
from clipflow.significance import Interval, Values

Direction = Literal["image_to_text", "text_to_image"]
DIRECTIONS: tuple[Direction, ...] = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class Outcome:
    """What one task gave: all that its metrics and its pictures are made of, and no more."""

    task: str
    samples: dict[str, Values]
    """By full name, [samples]: values whose mean is the metric."""
    others: dict[str, list[float]]
    """By full name, metrics that are no such means: value and, where known, both ends of its interval."""
    thumbnails: dict[str, str]
    """By row of the test split, the images that the report shows, as data URIs."""

    def metrics(self) -> dict[str, float]:
        """Every metric of the task by full name."""
        found = {
            name: float(values.mean(dtype=np.float64)) for name, values in self.samples.items()
        }
        return found | {name: values[0] for name, values in self.others.items()}


@dataclass(frozen=True)
class Classification(Outcome):
    """A task whose images have a class each."""

    classnames: list[str]
    labels: Indices
    """[samples], class indices."""
    predicted: Indices
    """[samples], by the ensemble of all templates."""
    mistakes: list[tuple[int, float, float]]
    """Row of each shown mistake, the model's probabilities of its answer and of the right one."""
    reliability: list[tuple[float, float, int]]
    """Mean confidence, accuracy and number of samples, by bins of confidence."""
    few_shot: dict[str, list[float]] = field(default_factory=dict)
    """By number of examples per class, the accuracy of each draw."""
    corrupted: dict[str, list[float]] = field(default_factory=dict)
    """By corruption, top-1 accuracy at each severity."""

    @property
    def confusion(self) -> Indices:
        """[classes, classes], counts; rows are the actual classes."""
        return metrics.confusion(self.labels, self.predicted, len(self.classnames))


@dataclass(frozen=True)
class Shown:
    """A retrieval query of the gallery, and what was found."""

    row: int
    """Of the image; queries by text use its first caption."""
    first: int
    """The index of that caption."""
    caption: str
    texts: list[tuple[str, bool]]
    """The captions most similar to the image, best first, and whether they are its own."""
    images: list[int]
    """The rows of the images most similar to the caption, best first."""
    captions: list[str]
    """The first captions of `images`."""


@dataclass(frozen=True)
class Retrieval(Outcome):
    """A task whose images have captions."""

    num_images: int
    num_captions: int
    ranks: dict[str, Indices]
    """By direction, [queries]: the rank of the best right answer; 0 is the best."""
    chance: dict[str, float]
    """By direction and k (`image_to_text/1`), R@k of a random order."""
    gallery: list[Shown]


@dataclass(frozen=True)
class Compositional(Outcome):
    """A task of images with a right caption and a wrong one that differs in little."""

    examples: list[tuple[int, str, str, float, float]]
    """Row, right and wrong caption and their cosines, of pairs that the model got most wrong."""


@dataclass(frozen=True)
class Results:
    """The results of all tasks, filled task by task."""

    classifications: list[Classification] = field(default_factory=list)
    retrievals: list[Retrieval] = field(default_factory=list)
    compositional: list[Compositional] = field(default_factory=list)

    def __iter__(self) -> Iterator[Outcome]:
        yield from self.classifications
        yield from self.retrievals
        yield from self.compositional

    def add(self, outcome: Outcome) -> None:
        """Put a task's outcome where it belongs."""
        where: list[Any] = {
            Classification: self.classifications,
            Retrieval: self.retrievals,
            Compositional: self.compositional,
        }[type(outcome)]  # type: ignore[assignment]
        where.append(outcome)

    def samples(self) -> dict[str, Values]:
        """Of all tasks, by full name."""
        return {name: values for one in self for name, values in one.samples.items()}

    def metrics(self) -> dict[str, float]:
        """Every metric, and the means over tasks; `retrieval/mean/...` is over both ways, too."""
        found = {name: value for one in self for name, value in one.metrics().items()}
        by_mean = defaultdict(list)
        for name, value in found.items():
            kind, _, *_, metric = name.split("/")
            by_mean[f"{kind}/mean/{metric}"].append(value)
        return found | {name: fmean(values) for name, values in by_mean.items()}

    def intervals(self) -> dict[str, Interval]:
        """The 95 % bootstrap interval of every metric that has one."""
        known = significance.intervals(self.metrics(), self.samples())
        for one in self:
            known |= {
                name: Interval(*found) for name, found in one.others.items() if len(found) == 3
            }
        return known


def answers(right: NDArray[np.bool_]) -> Values:
    """1 for right and 0 for wrong."""
    found: Values = right.astype(np.float32)
    return found
