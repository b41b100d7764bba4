"""webdataset: existing tar shards of `<key>.jpg` (or png, webp, ...) with `<key>.txt` or `<key>.json`.

Keys often restart in every shard and may have folders in them, so a pair's key is made of both: 16 hex
digits of `<shard>/<key>`. It stays the same when other shards are added; both parts are kept in the
pair's facts. Shards whose keys are unique already, clipflow's own among them, can keep them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import Field

from clipflow.artifacts.pairs import key_of
from clipflow.errors import ArtifactError
from clipflow.ingest.rows import Refused, Row, in_share
from clipflow.ingest.sources import Source
from clipflow.ingest.sources._files import IMAGE_SUFFIXES, existing

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.ingest.params import Params


class Webdataset(Source):
    """Shards as img2dataset, open_clip and DataComp write them: every `*.tar` below `ingest.data`."""

    caption_key: str
    """Where a sample has no `.txt`: the key of its `.json` that holds the caption."""
    carry: list[str]
    """Keys of its `.json` that go along: of LAION's shards for example NSFW, LANGUAGE, similarity."""
    keep_keys: bool
    """Take the shards' keys as they are, so that rewrites still join; two equal ones are an error of
    the source, and the second is left out."""
    test_share: float = Field(ge=0, lt=1)
    """Share of samples held out for the retrieval benchmark."""

    def rows(self, params: Params, root: Path) -> Iterator[Row]:
        """Every sample of every shard. A truncated shard gives what comes before the break."""
        existing(root, "a folder of tar shards")
        shards = [root] if root.is_file() else sorted(root.rglob("*.tar"))
        if not shards:
            raise ArtifactError(f"{root}: expected *.tar shards, found none; check ingest.data")
        for shard in shards:
            name = shard.name if shard == root else shard.relative_to(root).as_posix()
            try:
                for stem, files in _samples(shard):
                    yield self._row(name, stem, files, params.seed)
            except (OSError, tarfile.TarError):
                yield Row(name, refused="truncated or damaged shard")

    def images(
        self, root: Path, batches: Iterator[Sequence[Row]]
    ) -> Generator[tuple[Row, bytes | Refused], None, None]:
        """Read from the shards, one after the other."""
        name, file = "", None
        try:
            for row in (row for batch in batches for row in batch):
                if file is None or row.where["shard"] != name:
                    if file is not None:
                        file.close()
                    name = row.where["shard"]
                    file = (root if root.is_file() else root / name).open("rb")
                file.seek(row.where["offset"])
                yield row, file.read(row.where["size"])
        finally:
            if file is not None:
                file.close()

    def held_out(
        self, root: Path, benchmarks: benchmarks_artifact.Writer
    ) -> AbstractContextManager[benchmarks_artifact.TaskWriter | None]:
        """Retrieval."""
        return benchmarks.retrieval("heldout")

    def _row(self, shard: str, stem: str, files: dict[str, Any], seed: int) -> Row:
        name = f"{shard}/{stem}"
        image = next((files[suffix] for suffix in files if suffix in IMAGE_SUFFIXES), None)
        if image is None:
            return Row(name, refused="sample without image")
        known = _json(files.get(".json", b""))
        caption = self._caption(files, known)
        if not caption:
            return Row(name, refused="empty caption")
        carried = {key: known[key] for key in self.carry if known.get(key) is not None}
        key = PurePosixPath(stem).name if self.keep_keys else key_of(name)
        return Row(
            name,
            (caption,),
            key,
            where={"shard": shard, "offset": image[0], "size": image[1]},
            facts={**carried, "shard": shard, "key": stem},
            held_out=in_share(f"{seed}/{key}", self.test_share),
        )

    def _caption(self, files: dict[str, Any], known: dict[str, Any]) -> str:
        if ".txt" in files:
            return str(files[".txt"].decode("utf-8", errors="replace")).strip()
        # JSON can hold half a surrogate pair, which is no character.
        caption = str(known.get(self.caption_key) or "")
        return caption.encode(errors="replace").decode().strip()


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(key, {suffix: bytes, or of an image its place in the shard})` of each sample.

    A sample is neighbouring members whose paths agree up to the name's first dot. Raises OSError or
    TarError at the break, after the last sample before it.
    """
    key, files, size = "", dict[str, Any](), shard.stat().st_size
    broken: Exception | None = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                # Else tarfile keeps every header in memory.
                tar.members.clear()  # type: ignore[attr-defined]
                if not member.isreg():
                    continue
                path = PurePosixPath(member.name)
                base, _, suffix = path.name.partition(".")
                stem = (path.parent / base).as_posix()
                if stem != key and files:
                    yield key, files
                    files = {}
                key, suffix = stem, "." + suffix.lower()
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                if suffix in IMAGE_SUFFIXES:
                    files[suffix] = (member.offset_data, member.size)
                elif suffix in (".txt", ".json"):
                    files[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
                else:
                    files[suffix] = b""
            # A whole tar ends in blocks of zeros; tarfile takes a cut between members for its end.
            with shard.open("rb") as end:
                end.seek(tar.offset)
                if end.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("unexpected end of data")
    except (OSError, tarfile.TarError) as error:
        broken = error
    if files:
        yield key, files
    if broken is not None:
        raise broken


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
