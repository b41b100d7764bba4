"""`rewrites`: what a generator made of each caption, joined to `pairs` by key and never by line order.

    rewrites/manifest.json    counts by outcome, the generator, digests
    rewrites/00000.parquet    one row per pair of the shard of that name: key, rewrites, provenance

`rewrites` holds the accepted texts that differ from the caption (it may be empty: pre-training then
has the original alone). `provenance` holds every candidate, with the prompt source it came from and
`accepted` or the reason why not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError

SCHEMA = "clipflow.rewrites/1"


class Candidate(TypedDict):
    """One text that a generator proposed."""

    text: str
    source: str
    """Which prompt source or operation made it: `chatgpt`, `coco`, `synonym`, ..."""
    outcome: str
    """`accepted`, or the reason it was rejected."""


TABLE = pa.schema(
    [
        ("key", pa.string()),
        ("rewrites", pa.list_(pa.string())),
        (
            "provenance",
            pa.list_(
                pa.struct(
                    [("text", pa.string()), ("source", pa.string()), ("outcome", pa.string())]
                )
            ),
        ),
    ]
)


class Writer:
    """Fills the folder of a `rewrites` artifact, a shard at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[dict[str, Any]] = []
        self.outcomes: Counter[str] = Counter()
        self.num_fallback = 0

    def add_shard(self, name: str, rows: dict[str, list[Candidate]]) -> None:
        """Write one shard: the candidates of each key, in the order of the pairs' shard."""
        accepted = [[c["text"] for c in cs if c["outcome"] == "accepted"] for cs in rows.values()]
        path = self.folder / f"{name}.parquet"
        table = pa.table(
            {"key": list(rows), "rewrites": accepted, "provenance": list(rows.values())},
            schema=TABLE,
        )
        pq.write_table(table, path)
        self.outcomes.update(c["outcome"] for cs in rows.values() for c in cs)
        self.num_fallback += sum(not texts for texts in accepted)
        self.shards.append(
            {"url": path.name, "num_pairs": len(rows), "sha256": manifest.file_digest(path)}
        )

    def close(self, **facts: Any) -> None:
        """Write the manifest."""
        manifest.write(
            self.folder,
            SCHEMA,
            num_pairs=sum(shard["num_pairs"] for shard in self.shards),
            num_without_rewrite=self.num_fallback,
            outcomes=dict(self.outcomes),
            shards=self.shards,
            **facts,
        )


def read(folder: Path) -> pa.Table:
    """All rows of a `rewrites` artifact. Raises ArtifactError for the wrong kind or a damaged shard."""
    shards = manifest.read(folder, SCHEMA)["shards"]
    return pa.concat_tables([_shard(folder / shard["url"]) for shard in shards]).combine_chunks()


def by_shard(folder: Path, pairs: Pairs) -> Iterator[tuple[pa.Table, pa.ListArray]]:
    """Each pairs shard's index and, in its order, its pairs' rewrites, joined by key.

    Raises ArtifactError if they were made of other pairs, or unless every pair has exactly one row.
    """
    made_of = manifest.read(folder, SCHEMA).get("pairs")
    if made_of not in (None, manifest.digest(pairs.folder)):
        raise ArtifactError(
            f"{folder}: made of other pairs ({made_of}) than {pairs.folder}"
            f" ({manifest.digest(pairs.folder)}); run 'clipflow rewrite' on these pairs"
        )
    for tar, index in zip(pairs.shards, pairs.indexes(), strict=True):
        path = folder / f"{tar.stem}.parquet"
        table = _shard(path)
        rows = pc.index_in(index["key"], value_set=table["key"]).combine_chunks()
        if rows.null_count or len(table) != len(index):
            missing = index["key"].filter(pc.is_null(rows))
            example = f", the first of them '{missing[0]}'" if len(missing) else ""
            raise ArtifactError(
                f"{path}: its keys are not those of {tar}: {len(missing)} of {len(index)} pairs have no"
                f" row{example}, {len(table)} rows in all; run 'clipflow rewrite' on these pairs"
            )
        yield index, table["rewrites"].combine_chunks().take(rows)


def _shard(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=TABLE)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path}: missing or damaged ({type(error).__name__}); "
            "make it again with 'clipflow rewrite'"
        ) from None
