"""urls: tables of URLs and captions, as CC3M, CC12M and LAION are published; the images are downloaded.

A key is made of URL and caption, so rows keep theirs whatever is added, and however many links are dead.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow.artifacts.pairs import key_of
from clipflow.errors import ArtifactError
from clipflow.ingest import tables
from clipflow.ingest.rows import Refused, Row, in_share
from clipflow.ingest.sources import Source
from clipflow.ingest.sources._files import existing
from clipflow.ingest.web import Web, fetch

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.ingest.params import Params

HOW = {"concurrency", "per_host", "timeout_s", "max_retries", "user_agent"}
"""What changes how images are downloaded, not which: interrupted work goes on with other values."""


class Urls(Source):
    """Every table below `ingest.data`, or the one that it is; each begins a shard of its own."""

    url_column: str | None
    """Column with the image's URL; null: found by its name or, without a header line, by its content."""
    caption_column: str | None
    """Column with the caption; null: found likewise."""
    carry: list[str]
    """Columns that go along with each pair: of LAION for example NSFW, LANGUAGE, similarity."""
    test_share: float = Field(ge=0, lt=1)
    """Share of samples held out for the retrieval benchmark."""
    web: Web
    """How images are downloaded."""

    def rows(self, params: Params, root: Path) -> Iterator[Row]:
        """Every row of every table, in the order of the tables' names."""
        existing(root, "a table of URLs and captions, or a folder of them")
        files = [root] if root.is_file() else sorted(
            file for file in root.rglob("*") if file.is_file() and tables.is_table(file)
        )  # fmt: skip
        if not files:
            raise ArtifactError(
                f"{root}: expected tables ({', '.join(tables.SUFFIXES)}), found none; check ingest.data"
            )
        for file in files:
            refused = list[Row]()

            def leave_out(
                reason: str, name: str, file: Path = file, refused: list[Row] = refused
            ) -> None:
                refused.append(Row(name, refused=reason, group=file.name))

            columns = (self.url_column, self.caption_column, self.carry)
            for batch in tables.rows(file, *columns, leave_out):
                yield from refused
                refused.clear()
                for url, caption, carried in zip(*batch, strict=True):
                    key = key_of(f"{url}\n{caption}")
                    yield Row(
                        url,
                        (caption,),
                        key,
                        where={"url": url},
                        facts={**{k: v for k, v in carried.items() if v is not None}, "url": url},
                        held_out=in_share(f"{params.seed}/{key}", self.test_share),
                        group=file.name,
                    )
            yield from refused

    def images(
        self, root: Path, batches: Iterator[Sequence[Row]]
    ) -> Generator[tuple[Row, bytes | Refused], None, None]:
        """Download, as many at once as `web` allows."""
        wanted = ([(row, row.where["url"]) for row in batch] for batch in batches)
        yield from fetch(wanted, self.web)

    def held_out(
        self, root: Path, benchmarks: benchmarks_artifact.Writer
    ) -> AbstractContextManager[benchmarks_artifact.TaskWriter | None]:
        """Retrieval."""
        return benchmarks.retrieval("heldout")

    def identity(self) -> dict[str, object]:
        """All but how many at once, how long to wait and how often to try."""
        return self.model_dump(mode="json", exclude={"web": HOW})
