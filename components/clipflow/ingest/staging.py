"""Work that outlives its process: rows dealt out in chunks, each with its images fetched or not yet.

    plan.json           the chunks there are, once all rows are known
    00000.rows          the rows of a chunk (parquet)
    00000.bin           images of the chunk that came and were found good, in the order they came
    00000.outcomes      what became of each row, and where its image is in the .bin (parquet)

A chunk becomes a shard. It is done when its outcomes are there; what was being fetched when the process
ended is fetched again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipflow.artifacts import manifest
from clipflow.ingest.images import CleanImage
from clipflow.ingest.rows import Refused, Row

PLAN = "plan.json"
GOOD = ""
"""The outcome of a row whose image is there."""
ROWS = pa.schema([("row", pa.string()), ("image", pa.binary())])
OUTCOMES = pa.schema(
    [
        ("outcome", pa.string()),
        ("step", pa.string()),
        ("retryable", pa.bool_()),
        ("held_out", pa.bool_()),
        ("attempt", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("source_width_px", pa.int32()),
        ("source_height_px", pa.int32()),
        ("digest", pa.uint64()),
        ("hash", pa.list_(pa.uint64())),
    ]
)


class Placed(NamedTuple):
    """A row and its place: which chunk, and where in it."""

    chunk: int
    place: int
    row: Row


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row."""

    outcome: str
    """GOOD, or why there is no image."""
    step: str = ""
    """Where a row without an image went."""
    retryable: bool = False
    held_out: bool = False
    attempt: int = 0
    """How many times failed rows had been tried again when this came: what comes later knocks no
    image out that was there before."""
    offset: int = 0
    size: int = 0
    width_px: int = 0
    height_px: int = 0
    source_width_px: int = 0
    source_height_px: int = 0
    digest: int = 0
    """64 bits that equal images have in common."""
    hash: tuple[int, ...] = ()
    """Perceptual; similar images differ in few bits."""


class Staging:
    """The folder of one ingest, whatever process works on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def plan(self) -> dict[str, Any] | None:
        """Facts of the plan, `num_chunks` among them; None as long as it isn't complete."""
        file = self.folder / PLAN
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def planned(self, **facts: Any) -> None:
        """All chunks have their rows."""
        manifest.write_json(self.folder / PLAN, facts)

    def write_rows(self, chunk: int, rows: Sequence[Row]) -> None:
        """Write the rows of a chunk, in place of those that it had."""
        texts = [json.dumps(_told(row)) for row in rows]
        columns = [pa.array(texts, pa.string()), pa.array([r.image for r in rows], pa.binary())]
        _write(pa.Table.from_arrays(columns, schema=ROWS), self._file(chunk, "rows"))

    def rows(self, chunk: int) -> list[Row]:
        """The rows of a chunk."""
        table = pq.read_table(self._file(chunk, "rows"))
        texts, images = (table[name].to_pylist() for name in ("row", "image"))
        return [
            Row(
                **{**json.loads(text), "captions": tuple(json.loads(text)["captions"])}, image=image
            )
            for text, image in zip(texts, images, strict=True)
        ]

    def is_done(self, chunk: int) -> bool:
        """Whether every row of the chunk has its outcome."""
        return self._file(chunk, "outcomes").exists()

    def outcomes(self, chunk: int) -> pa.Table:
        """What became of the rows of a chunk that is done: OUTCOMES, in the order of the rows."""
        return pq.read_table(self._file(chunk, "outcomes"), schema=OUTCOMES)

    def images(self, chunk: int) -> Images:
        """The good images of a chunk that is done."""
        return Images(self._file(chunk, "bin"))

    def open(self, chunk: int, *, again: bool) -> OpenChunk:
        """Begin to fetch a chunk, or what failed of one that is done."""
        return OpenChunk(self, chunk, again=again)

    def _file(self, chunk: int, suffix: str) -> Path:
        return self.folder / f"{chunk:05d}.{suffix}"


class Images:
    """Reads images of a chunk at random."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb")

    def read(self, offset: int, size: int) -> bytes:
        """One image."""
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        """Done reading."""
        self._file.close()


class OpenChunk:
    """A chunk whose images come in any order. Not for several threads at once."""

    def __init__(self, staging: Staging, chunk: int, *, again: bool) -> None:
        self._staging, self.chunk = staging, chunk
        rows = staging.rows(chunk)
        self._held_out = [row.held_out for row in rows]
        self._outcomes: list[Outcome | None] = [
            Outcome(row.refused, "row") if row.refused else None for row in rows
        ]
        self._aside = staging.folder / f"{chunk:05d}.bin.partial"
        self._attempt = 0
        self._aside.unlink(missing_ok=True)
        if again:
            before = staging.outcomes(chunk)
            self._attempt = 1 + max(before["attempt"].to_pylist(), default=0)
            self._outcomes = [
                None if found["retryable"] else Outcome(**{**found, "hash": tuple(found["hash"])})
                for found in before.to_pylist()
            ]
            self._aside.write_bytes(staging._file(chunk, "bin").read_bytes())
        self._bin = self._aside.open("ab")
        self.todo = [
            Placed(chunk, index, row)
            for index, row in enumerate(rows)
            if self._outcomes[index] is None
        ]
        """The rows whose images are to come."""
        self.num_left = len(self.todo)

    def put(self, index: int, found: CleanImage | Refused) -> None:
        """Keep what came of a row."""
        if isinstance(found, Refused):
            outcome = Outcome(found.reason, found.step, found.retryable, attempt=self._attempt)
        else:
            offset = self._bin.tell()
            self._bin.write(found.jpeg)
            outcome = Outcome(
                GOOD, "", False, self._held_out[index], self._attempt, offset, len(found.jpeg),
                found.width_px, found.height_px, found.source_width_px, found.source_height_px,
                found.digest, found.hash,
            )  # fmt: skip
        self._outcomes[index] = outcome
        self.num_left -= 1

    def abandon(self) -> None:
        """Not every row has its outcome: the chunk will be begun anew."""
        self._bin.close()

    def close(self) -> None:
        """Every row has its outcome: the chunk is done."""
        self._bin.close()
        self._aside.replace(self._staging._file(self.chunk, "bin"))
        rows = [asdict(outcome) for outcome in self._outcomes if outcome is not None]
        _write(pa.Table.from_pylist(rows, OUTCOMES), self._staging._file(self.chunk, "outcomes"))


def refuse(rows: Sequence[Row], refused: Sequence[str]) -> list[Row]:
    """The rows, those with a reason in `refused` without their images."""
    return [
        replace(row, refused=reason, image=None) if reason else row
        for row, reason in zip(rows, refused, strict=True)
    ]


def hashes(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The perceptual hashes of images that all have one: uint64[n, words]."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1) if len(column) else np.zeros((0, 1), np.uint64)


def _told(row: Row) -> dict[str, Any]:
    told = {name: getattr(row, name) for name in Row.__slots__ if name != "image"}
    return {
        name: dict(value) if name in ("where", "facts") else value for name, value in told.items()
    }


def _write(table: pa.Table, file: Path) -> None:
    aside = file.with_name(file.name + ".partial")
    pq.write_table(table, aside, compression="zstd")
    aside.replace(file)
