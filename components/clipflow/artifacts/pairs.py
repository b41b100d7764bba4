"""`pairs`: images with their captions, in webdataset shards with an index for reading at random.

pairs/manifest.json     counts, what was left out and why, digests of the shards
pairs/00000.tar         <key>.jpg, <key>.txt, <key>.json per sample (the webdataset convention)
pairs/00000.parquet     key, caption, offset and size of the JPEG inside the tar
pairs/outcomes/00000.parquet
                        what became of every row of the source, where `clipflow ingest` wrote the pairs
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from clipflow.artifacts import manifest
from clipflow.errors import ArtifactError

SCHEMA = "clipflow.pairs/1"
INDEX = pa.schema(
    [("key", pa.string()), ("caption", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]
)
OUTCOMES = pa.schema(
    [
        ("key", pa.string()),
        ("name", pa.string()),
        ("outcome", pa.string()),
        ("step", pa.string()),
        ("retryable", pa.bool_()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
    ]
)
"""`outcome`: KEPT, HELD_OUT, or why a row gave no pair; `step`: where it went (`row`: before its image,
`fetch`: its image did not come, `image`: that was not taken, `all`: because of other images). Width and
height are of the source's image, 0 if none was read."""
KEPT, HELD_OUT = "kept", "held out"
TAR_FORMAT = tarfile.PAX_FORMAT
"""The bytes of USTAR where a name fits into its 100; longer names get a header of their own."""
MAX_LISTED = 1000
"""Left-out samples are all counted; at most this many per reason are listed by name."""


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append one member without clock or owner; return the offset of its data in the tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
    # Else tarfile keeps every header in memory.
    tar.members.clear()  # type: ignore[attr-defined]
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded


def without_images(name: str) -> bool:
    """Whether a file of the artifact is wanted where only captions are read."""
    return not name.endswith(".tar")


def key_of(name: str) -> str:
    """16 hex digits that identify a sample by its name: adding other files never changes them."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]


class Writer:
    """Fills the folder of a `pairs` artifact. `close` writes the manifest; without it there is none."""

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        self.folder = folder
        self.samples_per_shard = samples_per_shard
        self.shards: list[dict[str, Any]] = []
        self.left_out: dict[str, list[str]] = {}
        self.num_left_out: Counter[str] = Counter()
        self.num_retryable = 0
        self.outcomes: dict[str, str] = {}
        self._number = 0
        self._keys: set[str] = set()
        self._rows: list[tuple[str, str, int, int]] = []
        self._tar: tarfile.TarFile | None = None

    def add(self, key: str, jpeg: bytes, caption: str, facts: Mapping[str, Any]) -> None:
        """Append one sample. `facts` (source, size in px, ...) become `<key>.json`."""
        if key in self._keys:
            self.leave_out("duplicate key", key)
            return
        self._keys.add(key)
        if self._tar is None:
            self._tar = tarfile.open(self._path("tar"), "w", format=TAR_FORMAT)  # noqa: SIM115
        offset = add_file(self._tar, f"{key}.jpg", jpeg)
        add_file(self._tar, f"{key}.txt", caption.encode())
        add_file(self._tar, f"{key}.json", json.dumps(dict(facts), sort_keys=True).encode())
        self._rows.append((key, caption, offset, len(jpeg)))
        if len(self._rows) == self.samples_per_shard:
            self._close_shard()

    def begin_shard(self, number: int) -> None:
        """What is added from here on goes to the shard of that number."""
        self._close_shard()
        self._number = number

    def add_outcomes(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what became of the rows of the shard of that number, as in OUTCOMES."""
        folder = self.folder / "outcomes"
        folder.mkdir(exist_ok=True)
        table = pa.Table.from_pylist(list(rows), OUTCOMES)
        file = folder / f"{number:05d}.parquet"
        pq.write_table(table, file, compression="zstd")
        self.outcomes[file.name] = manifest.file_digest(file)
        self.num_retryable += sum(row["retryable"] for row in rows)

    def leave_out(self, reason: str, name: str) -> None:
        """Count and list a sample that can't be used."""
        self.num_left_out[reason] += 1
        names = self.left_out.setdefault(reason, [])
        if len(names) < MAX_LISTED:
            names.append(name)

    def close(self, **facts: Any) -> None:
        """Finish the last shard and write the manifest. Raises ArtifactError if nothing was added."""
        self._close_shard()
        if not self.shards:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.num_left_out.items()))
            raise ArtifactError(
                "no usable image-caption pair in the source:"
                f" {reasons or 'it is empty'}; check ingest.data and the captions"
            )
        manifest.write(
            self.folder,
            SCHEMA,
            num_pairs=sum(shard["num_pairs"] for shard in self.shards),
            shards=self.shards,
            left_out={
                reason: {"count": self.num_left_out[reason], "names": sorted(names)}
                for reason, names in self.left_out.items()
            },
            **({"outcomes": self.outcomes} if self.outcomes else {}),
            **facts,
        )

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self._number:05d}.{suffix}"

    def _close_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        columns = [pa.array(column) for column in zip(*self._rows, strict=True)]
        pq.write_table(pa.Table.from_arrays(columns, schema=INDEX), self._path("parquet"))
        tar, index = self._path("tar"), self._path("parquet")
        self.shards.append(
            {
                "url": tar.name,
                "num_pairs": len(self._rows),
                "sha256": manifest.file_digest(tar),
                "index_sha256": manifest.file_digest(index),
            }
        )
        self._rows, self._tar = [], None
        self._number += 1


class Pairs:
    """A `pairs` artifact, read a shard at a time."""

    def __init__(self, folder: Path, *, images: bool = True) -> None:
        """Check manifest, indexes and sizes; the shards themselves only where images are wanted.

        Raises ArtifactError for the wrong kind or a damaged shard.
        """
        self.folder = folder
        self.manifest = manifest.read(folder, SCHEMA)
        self.shards = [folder / shard["url"] for shard in self.manifest["shards"]]
        for tar, index in zip(self.shards, self.indexes(), strict=True):
            if not images:
                continue
            end = index["offset"][-1].as_py() + index["size"][-1].as_py()
            if not tar.is_file() or tar.stat().st_size < end:
                size = tar.stat().st_size if tar.is_file() else 0
                raise ArtifactError(
                    f"{tar}: truncated, expected at least {end} bytes, found {size}; "
                    "make it again with 'clipflow ingest'"
                )

    def __len__(self) -> int:
        return sum(shard["num_pairs"] for shard in self.manifest["shards"])

    @property
    def keys(self) -> list[str]:
        """Every sample's key, in shard order."""
        return [key for _, keys, _ in self.by_shard() for key in keys]

    @property
    def captions(self) -> list[str]:
        """Every sample's own caption, in shard order."""
        return [caption for _, _, captions in self.by_shard() for caption in captions]

    def indexes(self) -> Iterator[pa.Table]:
        """Each shard's index: key, caption, offset and size in bytes of the JPEG in the tar."""
        for number in range(len(self.shards)):
            yield self.index(number)

    def index(self, number: int) -> pa.Table:
        """One shard's index."""
        return _index(self.shards[number], self.manifest["shards"][number]["num_pairs"])

    def by_shard(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """`(name, keys, captions)` of each shard."""
        for tar, index in zip(self.shards, self.indexes(), strict=True):
            yield tar.stem, index["key"].to_pylist(), index["caption"].to_pylist()

    def rows(self, number: int, *, images: bool = False) -> Iterator[Row]:
        """The samples of one shard, with their JPEGs only if asked for."""
        index = self.index(number)
        columns = (index[name].to_pylist() for name in ("key", "caption", "offset", "size"))
        if not images:
            for key, caption, _, _ in zip(*columns, strict=True):
                yield Row(key, caption, None)
            return
        with self.shards[number].open("rb") as file:
            for key, caption, offset, size in zip(*columns, strict=True):
                yield Row(key, caption, os.pread(file.fileno(), size, offset))

    def facts(self, number: int) -> Iterator[dict[str, Any]]:
        """What is known of each sample of one shard beside its caption: its `<key>.json`, in order.

        Raises ArtifactError if the shard is damaged.
        """
        path = self.shards[number]
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        yield json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
        except (OSError, ValueError, tarfile.TarError) as error:
            raise ArtifactError(
                f"{path}: damaged ({type(error).__name__}); make it again with 'clipflow ingest'"
            ) from None


def outcomes(folder: Path) -> Iterator[pa.Table]:
    """What became of the source's rows, a table of OUTCOMES for each shard, in order."""
    for file in sorted((folder / "outcomes").glob("*.parquet")):
        yield pq.read_table(file, schema=OUTCOMES)


class Row(NamedTuple):
    """One sample."""

    key: str
    caption: str
    image: bytes | None
    """Its JPEG, or None where images were not asked for."""


def _index(tar: Path, num_pairs: int) -> pa.Table:
    path = tar.with_suffix(".parquet")
    try:
        table = pq.read_table(path, schema=INDEX)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path}: missing or damaged index ({type(error).__name__}); "
            "make it again with 'clipflow ingest'"
        ) from None
    if len(table) != num_pairs:
        raise ArtifactError(
            f"{path}: expected {num_pairs} rows as in the manifest, found {len(table)}; "
            "make it again with 'clipflow ingest'"
        )
    return table
