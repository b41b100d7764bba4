"""`scores`: how well captions and rewrites fit their images, joined to `pairs` and `rewrites` by key.

scores/manifest.json    means and percentiles; digests of pairs, rewrites and checkpoint
scores/00000.parquet    one row per pair of the shard of that name: key, caption, rewrites

`caption` is the cosine of the image and the caption, `rewrites` those of the image and each accepted
rewrite, in their order. They are null where the image can't be decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipflow.artifacts import manifest
from clipflow.errors import ArtifactError

SCHEMA = "clipflow.scores/1"
TABLE = pa.schema(
    [("key", pa.string()), ("caption", pa.float32()), ("rewrites", pa.list_(pa.float32()))]
)
PERCENTILES = (5, 25, 50, 75, 95)
NUM_BINS = 20_000
"""Percentiles are read off a histogram of cosines with so many bins: exact to 0.0001, whatever the size."""


class Writer:
    """Fills the folder of a `scores` artifact, a shard at a time; a shard is complete or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Whether that shard is written."""
        return self._path(name).exists()

    def add_shard(self, name: str, table: pa.Table) -> None:
        """Write one shard: a row for each pair, in the order of the pairs' shard."""
        aside = self._path(name).with_suffix(".partial")
        pq.write_table(table.cast(TABLE), aside)
        aside.replace(self._path(name))

    def close(self, **facts: Any) -> None:
        """Write the manifest over all shards that there are."""
        shards, num_unreadable = [], 0
        captions, rewrites = _Spread(), _Spread()
        for path in sorted(self.folder.glob("*.parquet")):
            table = pq.read_table(path, schema=TABLE)
            captions.add(_values(table["caption"]))
            rewrites.add(_values(table["rewrites"].combine_chunks().flatten()))
            num_unreadable += table["caption"].null_count
            digest = manifest.file_digest(path)
            shards.append({"url": path.name, "num_pairs": len(table), "sha256": digest})
        manifest.write(
            self.folder,
            SCHEMA,
            num_pairs=sum(shard["num_pairs"] for shard in shards),
            num_unreadable=num_unreadable,
            caption=captions.facts(),
            rewrite=rewrites.facts(),
            shards=shards,
            **facts,
        )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"


def read(folder: Path) -> pa.Table:
    """All rows of a `scores` artifact. Raises ArtifactError for the wrong kind or a damaged shard."""
    tables = []
    for shard in manifest.read(folder, SCHEMA)["shards"]:
        path = folder / shard["url"]
        try:
            tables.append(pq.read_table(path, schema=TABLE))
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"{path}: missing or damaged ({type(error).__name__}); "
                "make it again with 'clipflow score'"
            ) from None
    return pa.concat_tables(tables).combine_chunks()


class _Spread:
    """Mean and percentiles of cosines that are seen a part at a time."""

    def __init__(self) -> None:
        self._edges = np.linspace(-1, 1, NUM_BINS + 1)
        self._counts = np.zeros(NUM_BINS, np.int64)
        self._sum = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in some values."""
        self._counts += np.histogram(values.clip(-1, 1), self._edges)[0]
        self._sum += float(values.sum())

    def facts(self) -> dict[str, float]:
        """`num`, `mean`, `p5` to `p95`; the number alone where it is 0."""
        num = int(self._counts.sum())
        if not num:
            return {"num": 0}
        reached = np.cumsum(self._counts)
        upper = self._edges[1:]
        return {
            "num": num,
            "mean": round(self._sum / num, 6),
            **{
                f"p{share}": round(float(upper[np.searchsorted(reached, share / 100 * num)]), 4)
                for share in PERCENTILES
            },
        }


def _values(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.drop_null().to_numpy(), np.float64)
