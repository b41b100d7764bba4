"""Sources: where pairs and benchmarks come from. One file per source; the file's name is its name."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from clipflow.catalogue import Catalogue, Choice

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks, pairs
    from clipflow.ingest.params import Params


class Source(Choice):
    """Fills two artifacts: pairs to train on and held-out benchmarks."""

    @abstractmethod
    def fill(self, params: Params, pairs: pairs.Writer, benchmarks: benchmarks.Writer) -> None:
        """Add every usable sample; count each unusable one with `pairs.leave_out(reason, name)`."""


CATALOGUE = Catalogue(__name__)
