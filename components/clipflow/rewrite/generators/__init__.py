"""Generators: what writes the rewrites. One file per generator; the file's name is its name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clipflow.catalogue import Catalogue, Choice


@dataclass(frozen=True)
class Request:
    """One caption to rewrite `num_rewrites` times. `seed` depends on params and key alone."""

    key: str
    caption: str
    num_rewrites: int
    seed: int


@dataclass(frozen=True)
class Proposal:
    """One proposed text, not yet checked, and the prompt source or operation that it came from."""

    text: str
    source: str


class Generator(Choice):
    """Proposes other ways to say captions. What it proposes is checked by the stage, not here."""

    @abstractmethod
    def propose(self, requests: Iterable[Request]) -> Iterator[list[Proposal]]:
        """For each request, in order, its proposals. Raises GeneratorError if it can't start."""


CATALOGUE = Catalogue(__name__)
