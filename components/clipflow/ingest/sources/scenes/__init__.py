"""scenes: an embedded world of drawn photographs with captions that imitate web alt text.

It needs no download and still has what makes language rewrites matter: objects, colours, patterns,
counts, arrangements and places; captions that name only some of them, in a few skewed phrasings, with
brands and catalogue numbers, and mostly by another word than the everyday one that benchmarks use.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow import log
from clipflow.ingest.rows import Row
from clipflow.ingest.sources import Source
from clipflow.ingest.sources.scenes import captions, draw, tasks, world

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.ingest.params import Params


class Scenes(Source):
    """How large the world is."""

    num_pairs: int = Field(ge=1)
    """Image-caption pairs to train on."""
    num_train: int = Field(ge=1)
    """Labelled images per classification task for the linear probe."""
    num_test: int = Field(ge=1)
    """Held-out images per task."""
    size_px: int = Field(ge=32)
    """Side of the square images."""
    everyday_share: float = Field(ge=0, le=1)
    """How often a caption uses a thing's everyday name; otherwise one of its other names."""

    def rows(self, params: Params, root: Path) -> Iterator[Row]:
        """Draw the world. The same seed gives the same bytes; every split has draws of its own."""
        for number in range(self.num_pairs):
            rng = random.Random(f"{params.seed}/pairs/{number}")
            scene = world.draw_scene(rng)
            jpeg = draw.jpeg(scene, self.size_px, params.images.quality, rng)
            caption = captions.alt_text(scene, self.everyday_share, rng)
            key = f"{number:08d}"
            yield Row(key, (caption,), key, facts={"source": "scenes"}, image=jpeg)

    def add_benchmarks(self, params: Params, benchmarks: benchmarks_artifact.Writer) -> None:
        """Draw the tasks' images, and described ones for retrieval."""

        def scenes_of(task: tasks.Task, split: str, count: int) -> Iterator[tuple[bytes, int]]:
            for number in log.progress(range(count), total=None, what=f"{task.name} {split}"):
                rng = random.Random(f"{params.seed}/{task.name}/{split}/{number}")
                scene, label = task.draw(rng)
                yield draw.jpeg(scene, self.size_px, params.images.quality, rng), label

        for task in tasks.TASKS:
            benchmarks.add_classification(
                task.name,
                task.classnames,
                task.templates,
                {
                    "train": scenes_of(task, "train", self.num_train),
                    "test": scenes_of(task, "test", self.num_test),
                },
                synonyms=task.synonyms,
            )

        def described(count: int) -> Iterator[tuple[bytes, list[str]]]:
            for number in log.progress(range(count), total=None, what="retrieval test"):
                rng = random.Random(f"{params.seed}/retrieval/{number}")
                scene = world.draw_scene(rng)
                jpeg = draw.jpeg(scene, self.size_px, params.images.quality, rng)
                yield jpeg, captions.descriptions(scene, 5, rng)

        benchmarks.add_retrieval("scenes", described(self.num_test))
