"""Sources: where pairs and benchmarks come from. One file per source; the file's name is its name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from clipflow.catalogue import Catalogue, Choice
from clipflow.ingest.rows import Refused, Row

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks
    from clipflow.ingest.params import Params


class Source(Choice):
    """Names its rows first, without their images, then gets the images, a stretch of rows at a time."""

    @abstractmethod
    def rows(self, params: Params, root: Path) -> Iterator[Row]:
        """Every row in an order of its own that never changes; what can't be used with its reason.

        `root` is where `ingest.data` is on this machine. Raises ArtifactError if it can't be read at all.
        """

    def images(
        self, root: Path, batches: Iterator[Sequence[Row]]
    ) -> Generator[tuple[Row, bytes | Refused], None, None]:
        """The image file of each row, in any order; none may wait for rows of a later batch.

        By default one after the other by `image`.
        """
        for batch in batches:
            for row in batch:
                yield row, self.image(root, row)

    def image(self, root: Path, row: Row) -> bytes | Refused:
        """The image file of one row. By default the one that came with it."""
        return row.image if row.image is not None else Refused("no such image")

    def held_out(
        self, root: Path, benchmarks: benchmarks.Writer
    ) -> AbstractContextManager[benchmarks.TaskWriter | None]:
        """The task to which held-out rows go; by default there is none."""
        return nullcontext()

    def add_benchmarks(self, params: Params, benchmarks: benchmarks.Writer) -> None:
        """Write tasks that have nothing to do with the rows; by default none."""

    def identity(self) -> dict[str, object]:
        """What changes the result, for recognising interrupted work: by default all parameters."""
        return self.model_dump(mode="json")


CATALOGUE = Catalogue(__name__)
