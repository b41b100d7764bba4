"""The embedded world: deterministic, labelled as drawn, and no benchmark image in training."""

from __future__ import annotations

import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clipflow.artifacts import benchmarks, manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.ingest import stage
from clipflow.ingest.sources.scenes import captions, draw, tasks, world


def test_the_stage_is_deterministic_by_seed(tmp_path: Path, stage_params: Any) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = {"pairs": tmp_path / name / "pairs", "benchmarks": tmp_path / name / "benchmarks"}
        stage.run(stage_params("ingest", seed=seed), **out)
        digests.append([manifest.digest(folder) for folder in out.values()])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


def test_no_benchmark_image_is_trained_on(tmp_path: Path, stage_params: Any) -> None:
    stage.run(stage_params("ingest"), pairs=tmp_path / "p", benchmarks=tmp_path / "b")
    trained = set()
    for path in Pairs(tmp_path / "p").shards:
        with tarfile.open(path) as tar:
            trained |= {tar.extractfile(n).read() for n in tar.getnames() if n.endswith(".jpg")}
    assert len(trained) == 64
    for task in benchmarks.read(tmp_path / "b"):
        assert trained.isdisjoint(image for image, _ in task.samples("test"))


def test_everything_has_a_shape_a_colour_and_a_place() -> None:
    assert set(draw.SHAPES) == set(world.OBJECTS)
    assert set(draw.HUES) == set(world.COLOURS)
    assert set(draw.PLACES) == set(world.PLACES) == set(captions.PREPOSITIONS)


@pytest.mark.parametrize("task", tasks.TASKS, ids=lambda task: task.name)
def test_labels_are_what_is_in_the_scene(task: tasks.Task) -> None:
    shown = {
        "objects": lambda s: s.thing.kind,
        "colours": lambda s: s.thing.colour,
        "patterns": lambda s: s.thing.pattern,
        "counts": lambda s: list(world.COUNTS)[s.thing.count - 1],
        "places": lambda s: s.place,
        "arrangements": lambda s: s.arrangement,
    }[task.name]
    labels = Counter()
    for seed in range(200):
        scene, label = task.draw(random.Random(seed))
        assert shown(scene) == task.classnames[label]
        labels[label] += 1
    assert set(labels) == set(range(len(task.classnames)))
    assert len(task.synonyms) == len(task.classnames)


def test_captions_seldom_use_everyday_names() -> None:
    everyday = other = 0
    for seed in range(2000):
        rng = random.Random(seed)
        scene = world.draw_scene(rng, two=False)
        words = captions.alt_text(scene, 0.05, rng).split()
        names = world.OBJECTS[scene.thing.kind]
        everyday += captions.plural(scene.thing.kind, scene.thing.count) in words
        other += any(captions.plural(name, scene.thing.count) in words for name in names)
    assert 0.03 < everyday / (everyday + other) < 0.08


def test_descriptions_tell_all() -> None:
    thing = world.Thing("boat", "red", "plain", 1)
    scene = world.Scene("beach", thing, "above", world.Thing("fish", "blue", "spotted", 1))
    texts = captions.descriptions(scene, 5, random.Random(0))
    assert len(set(texts)) == 5
    for text in texts:
        assert any(name in text for name in ("boat", *world.OBJECTS["boat"]))
        assert any(name in text for name in ("blue", *world.COLOURS["blue"]))
        assert any(name in text for name in ("beach", *world.PLACES["beach"]))


@pytest.mark.parametrize(
    ("noun", "many"), [("bunny", "bunnies"), ("box", "boxes"), ("trout", "trout"), ("toy", "toys")]
)
def test_plurals(noun: str, many: str) -> None:
    assert captions.plural(noun, 2) == many
    assert captions.plural(noun, 1) == noun
