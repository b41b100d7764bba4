"""The pairs with their rewrites, joined by key into one memory-mapped file.

Every process maps the same file, so that a million captions with four rewrites each cost next to no
memory of its own, in the trainer as in each loader process.
"""

from __future__ import annotations

import os
import socket
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipflow.artifacts import rewrites as rewrites_artifact
from clipflow.artifacts.pairs import INDEX, Pairs

TABLE = INDEX.append(pa.field("rewrites", pa.list_(pa.string())))


def join(pairs: Pairs, rewrites: Path, file: Path) -> None:
    """Write the joined file, a record batch per shard, unless it is there; complete or absent.

    Raises ArtifactError unless the rewrites were made of these pairs.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    # The nodes of a job may share the folder, and the first process of each writes the same.
    aside = file.with_name(f"{file.name}.{socket.gethostname()}-{os.getpid()}.partial")
    with pa.OSFile(str(aside), "wb") as stream, pa.ipc.new_file(stream, TABLE) as writer:
        for index, texts in rewrites_artifact.by_shard(rewrites, pairs):
            writer.write_batch(
                index.append_column("rewrites", texts).combine_chunks().to_batches()[0]
            )
    aside.replace(file)


class Samples:
    """Random access to key, image, caption and rewrites by row, in the order of the pairs.

    Picklable: each process maps the file and opens the shards itself.
    """

    def __init__(self, pairs: Pairs, file: Path) -> None:
        self.shards, self.file = pairs.shards, file
        self._open()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "file": self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.shards, self.file = state["shards"], state["file"]
        self._open()

    def key(self, row: int) -> str:
        """What names the sample."""
        return str(self._value("key", row))

    def texts(self, row: int) -> tuple[str, list[str]]:
        """The sample's caption and its rewrites."""
        return str(self._value("caption", row)), list(self._value("rewrites", row))

    def image(self, row: int) -> bytes:
        """The sample's JPEG. Raises OSError if its shard can't be read."""
        shard, _ = self._place(row)
        if shard not in self._files:
            self._files[shard] = os.open(self.shards[shard], os.O_RDONLY)
        return os.pread(self._files[shard], self._value("size", row), self._value("offset", row))

    def _open(self) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(self.file)))
        self._batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        self._ends = list(accumulate(len(batch) for batch in self._batches))
        self._files: dict[int, int] = {}

    def _place(self, row: int) -> tuple[int, int]:
        """The sample's shard and its row there."""
        shard = bisect_right(self._ends, row)
        return shard, row - self._ends[shard] + len(self._batches[shard])

    def _value(self, column: str, row: int) -> Any:
        shard, index = self._place(row)
        return self._batches[shard][column][index].as_py()
