"""`rewrites`: what a generator made of each caption, joined to `pairs` by key and never by line order.

    rewrites/manifest.json    counts by source and outcome, the generator, digests
    rewrites/00000.parquet    one row per pair of the shard of that name: key, rewrites, provenance
    rewrites/report.html      how good they are, with samples

`rewrites` holds the accepted texts that differ from the caption (it may be empty: pre-training then
has the original alone). `provenance` holds every candidate, with the prompt source it came from,
`accepted` or the reason why not, and what is remarkable about it all the same.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError

SCHEMA = "clipflow.rewrites/2"
ACCEPTED = "accepted"
FLAG = "flag: "
"""Before a flag's name among a source's outcomes."""
FACTS = b"clipflow"
"""Where a shard's file keeps its counts."""
OF_SHARDS = frozenset(
    {"num_pairs", "num_without_rewrite", "outcomes", "outcomes_by_source", "quality", "shards"}
)
"""What a manifest says of the shards that there are; its other facts say how they were made."""


class Candidate(TypedDict):
    """One text that a generator proposed."""

    text: str
    source: str
    """Which prompt source or operation made it: `chatgpt`, `coco`, `synonym`, ..."""
    outcome: str
    """`accepted`, or the reason it was rejected."""
    flags: NotRequired[list[str]]
    """What is remarkable about an accepted text: `lost number`, ..."""


CANDIDATE = pa.struct(
    [
        ("text", pa.string()),
        ("source", pa.string()),
        ("outcome", pa.string()),
        ("flags", pa.list_(pa.string())),
    ]
)
TABLE = pa.schema(
    [
        ("key", pa.string()),
        ("rewrites", pa.list_(pa.string())),
        ("provenance", pa.list_(CANDIDATE)),
    ]
)


class Writer:
    """Fills the folder of a `rewrites` artifact, a shard at a time; a shard is complete or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Whether that shard is written."""
        return self._path(name).exists()

    def add_shard(self, name: str, rows: Mapping[str, list[Candidate]]) -> None:
        """Write one shard: the candidates of each key, in the order of the pairs' shard."""
        accepted = [[c["text"] for c in cs if c["outcome"] == ACCEPTED] for cs in rows.values()]
        outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        for candidate in (c for cs in rows.values() for c in cs):
            outcomes[candidate["source"]][candidate["outcome"]] += 1
            for flag in candidate.get("flags", ()):
                outcomes[candidate["source"]][FLAG + flag] += 1
        facts = {
            "num_pairs": len(rows),
            "num_without_rewrite": sum(not texts for texts in accepted),
            "outcomes": outcomes,
        }
        table = pa.table(
            {"key": list(rows), "rewrites": accepted, "provenance": list(rows.values())},
            schema=TABLE.with_metadata({FACTS: json.dumps(facts, sort_keys=True)}),
        )
        aside = self._path(name).with_suffix(".partial")
        pq.write_table(table, aside)
        aside.replace(self._path(name))

    def adopt(self, shard: Path) -> None:
        """Take a shard that was written elsewhere: the same file by another name, or a copy of it."""
        ours = self.folder / shard.name
        try:
            ours.hardlink_to(shard)
        except OSError:  # another file system, or one without links
            shutil.copyfile(shard, ours)

    def counts(self) -> dict[str, Any]:
        """The manifest's facts of all shards that there are: pairs, outcomes by source, digests."""
        shards = []
        by_source: dict[str, Counter[str]] = defaultdict(Counter)
        num_without_rewrite = 0
        for path in sorted(self.folder.glob("*.parquet")):
            of_shard = json.loads(pq.read_metadata(path).metadata[FACTS])
            shards.append(
                {
                    "url": path.name,
                    "num_pairs": of_shard["num_pairs"],
                    "sha256": manifest.file_digest(path),
                }
            )
            num_without_rewrite += of_shard["num_without_rewrite"]
            for source, counts in of_shard["outcomes"].items():
                by_source[source].update(counts)
        total: Counter[str] = Counter()
        for counts in by_source.values():
            total.update({k: n for k, n in counts.items() if not k.startswith(FLAG)})
        return {
            "num_pairs": sum(shard["num_pairs"] for shard in shards),
            "num_without_rewrite": num_without_rewrite,
            "outcomes": dict(total),
            "outcomes_by_source": {source: dict(counts) for source, counts in by_source.items()},
            "shards": shards,
        }

    def close(self, **facts: Any) -> None:
        """Write the manifest: these facts and the counts of all shards, unless they are among them."""
        if "shards" not in facts:
            facts |= self.counts()
        manifest.write(self.folder, SCHEMA, **facts)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"


def read(folder: Path) -> pa.Table:
    """All rows of a `rewrites` artifact. Raises ArtifactError for the wrong kind or a damaged shard."""
    shards = manifest.read(folder, SCHEMA)["shards"]
    return pa.concat_tables([_shard(folder / shard["url"]) for shard in shards]).combine_chunks()


def column(folder: Path, name: str, column: str) -> pa.ChunkedArray:
    """One column of one shard."""
    return _shard(folder / f"{name}.parquet", [column])[column]


def by_shard(folder: Path, pairs: Pairs) -> Iterator[tuple[pa.Table, pa.ListArray]]:
    """Each pairs shard's index and, in its order, its pairs' rewrites, joined by key.

    Raises ArtifactError if they were made of other pairs, or unless every pair has exactly one row.
    """
    facts = manifest.read(folder, SCHEMA)
    made_of = facts.get("pairs")
    if made_of not in (None, manifest.digest(pairs.folder)):
        raise ArtifactError(
            f"{folder}: made of other pairs ({made_of}) than {pairs.folder}"
            f" ({manifest.digest(pairs.folder)}); run 'clipflow rewrite' on these pairs"
        )
    if made_of and len(facts["shards"]) < len(pairs.shards):
        raise ArtifactError(
            f"{folder}: a part, with {len(facts['shards'])} of the {len(pairs.shards)} shards of"
            f" {pairs.folder}; join the parts with 'clipflow rewrites merge'"
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


def _shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, schema=TABLE, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path}: missing or damaged ({type(error).__name__}); "
            "make it again with 'clipflow rewrite'"
        ) from None
