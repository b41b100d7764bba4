"""Generators: what writes the rewrites. One file per generator; the file's name is its name.

A generator answers tasks in whatever order suits it. What it writes is remembered, checked and put in order
by the stage, so that a generator knows nothing of shards, keys, checks or files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple, Self

from clipflow.catalogue import Catalogue, Choice


class Task(NamedTuple):
    """Some rewrites of one caption: number `first` and the `num - 1` after it."""

    caption: str
    first: int
    num: int
    seed: int
    """64 bits that depend on the run's seed and the caption (or the image, for those that see it) alone."""
    image: bytes | None = None
    """The caption's image as JPEG, for generators that see images."""


class Proposal(NamedTuple):
    """One proposed text, not yet checked, and the prompt source or operation that it came from."""

    text: str
    source: str
    problem: str | None = None
    """Why this is no rewrite, where the generator itself knows: `cut off`, `no answer`, ..."""


class Usage(NamedTuple):
    """Tokens that a model read and wrote."""

    read: int = 0
    written: int = 0

    def __add__(self, other: Usage) -> Usage:  # type: ignore[override]
        """The sum of both."""
        return Usage(self.read + other.read, self.written + other.written)


class Answer(NamedTuple):
    """What came of a task."""

    task: Task
    proposals: list[Proposal]
    usage: Usage = Usage()
    is_final: bool = True
    """False if a later run should ask again, as after a server's failure."""


class Generator(Choice):
    """Proposes other ways to say captions, or what images show."""

    sees_images: ClassVar[bool] = False
    """Whether tasks come with their images; equal captions of other images are then tasks of their own."""
    is_cheap: ClassVar[bool] = False
    """Cheap ones are asked again rather than remembered, and for all rewrites of a caption at once."""
    prompt_version: ClassVar[int] = 1
    """Raised with every change of prompts or parsing: what was remembered before is then forgotten."""
    not_written: ClassVar[frozenset[str]] = frozenset()
    """Params that change nothing in what is written: limits, batches, prices."""

    @abstractmethod
    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """One answer to each task, in any order; answers that come together are in one list.

        `tasks` is read no further than needed to keep the generator busy, and only in the caller's thread
        while it waits for the next list: what is asked next may depend on what was answered. Raises
        GeneratorError if it can't start or can't go on.
        """

    def per_task(self, num_rewrites: int) -> int:
        """How many rewrites of a caption make one task."""
        return num_rewrites if self.is_cheap else 1

    def identity(self) -> str:
        """Whatever determines what is written for a task, as text."""
        return f"{self.prompt_version} {self.model_dump_json(exclude=set(self.not_written))}"

    def share(self, num_parts: int) -> Self:
        """The generator for one of several parts at work at once, with its share of limits and budgets."""
        return self

    @property
    def has_budget(self) -> bool:
        """Whether `spent` can ever say something."""
        return False

    def spent(self, usage: Usage) -> str | None:
        """What has been used up, in words, if that is more than the generator's budget."""
        return None


CATALOGUE = Catalogue(__name__)
