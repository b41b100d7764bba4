"""The world's classification benchmarks: one attribute each, by its everyday names."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from clipflow.ingest.sources.scenes import world
from clipflow.ingest.sources.scenes.world import Scene, Thing


@dataclass(frozen=True)
class Task:
    """Which attribute is asked for, in which words, and scenes in which it is plain to see."""

    name: str
    names: dict[str, tuple[str, ...]]
    templates: tuple[str, ...]
    put: Callable[[Scene, str], Scene]
    """The scene with the attribute set to an everyday name."""
    two: bool = False

    @property
    def classnames(self) -> list[str]:
        """The everyday names."""
        return list(self.names)

    @property
    def synonyms(self) -> list[tuple[str, ...]]:
        """The other names of each class."""
        return list(self.names.values())

    def draw(self, rng: random.Random) -> tuple[Scene, int]:
        """A scene and the index of its class; all classes are equally likely."""
        label = rng.randrange(len(self.names))
        scene = world.draw_scene(rng, two=self.two)
        return self.put(scene, self.classnames[label]), label


def _with(change: Callable[[Thing, str], Thing]) -> Callable[[Scene, str], Scene]:
    return lambda scene, name: replace(scene, thing=change(scene.thing, name))


TASKS = (
    Task(
        "objects",
        world.OBJECTS,
        ("a photo of a {c}.", "a picture of a {c}.", "a {c}.", "a small {c}.", "the {c}."),
        _with(lambda thing, name: replace(thing, kind=name)),
    ),
    Task(
        "colours",
        world.COLOURS,
        ("a photo of something {c}.", "a {c} thing.", "something {c}.", "a {c} object.", "{c}."),
        _with(lambda thing, name: replace(thing, colour=name)),
    ),
    Task(
        "patterns",
        world.PATTERNS,
        ("a photo of something {c}.", "a {c} thing.", "a {c} object.", "a {c} design.", "{c}."),
        _with(lambda thing, name: replace(thing, pattern=name)),
    ),
    Task(
        "counts",
        world.COUNTS,
        ("a photo of {c} things.", "{c} things.", "{c} objects.", "{c} items.", "{c}."),
        _with(lambda thing, name: replace(thing, count=list(world.COUNTS).index(name) + 1)),
    ),
    Task(
        "places",
        world.PLACES,
        (
            "a photo of a {c}.",
            "a photo taken by the {c}.",
            "in the {c}.",
            "on the {c}.",
            "the {c}.",
        ),
        lambda scene, name: replace(scene, place=name),
    ),
    Task(
        "arrangements",
        world.ARRANGEMENTS,
        ("a photo of one thing {c} another.", "one thing {c} another.", "{c} each other.", "{c}."),
        lambda scene, name: replace(scene, arrangement=name),
        two=True,
    ),
)
