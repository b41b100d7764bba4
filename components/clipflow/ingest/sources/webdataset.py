"""webdataset: existing tar shards of `<key>.jpg` (or png, webp, ...) with `<key>.txt` or `<key>.json`.

Keys often restart in every shard and may have folders in them, so a pair's key is made of both: 16 hex
digits of `<shard>/<key>`. It stays the same when other shards are added; both parts are kept in the
pair's facts.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow import log
from clipflow.artifacts.pairs import key_of
from clipflow.errors import ArtifactError
from clipflow.ingest.images import UnusableImageError, rgb_jpeg
from clipflow.ingest.sources import Source
from clipflow.ingest.sources._files import IMAGE_SUFFIXES, existing, held_out

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.artifacts import pairs as pairs_artifact
    from clipflow.ingest.params import Params


class Webdataset(Source):
    """Shards as img2dataset, open_clip and DataComp write them: every `*.tar` below `ingest.data`."""

    caption_key: str
    """Where a sample has no `.txt`: the key of its `.json` that holds the caption."""
    test_share: float = Field(ge=0, lt=1)
    """Share of samples held out for the retrieval benchmark."""

    def fill(
        self, params: Params, pairs: pairs_artifact.Writer, benchmarks: benchmarks_artifact.Writer
    ) -> None:
        """Read every sample of every shard. A truncated shard gives what comes before the break."""
        root = existing(Path(params.data), "a folder of tar shards")
        shards = [root] if root.is_file() else sorted(root.rglob("*.tar"))
        if not shards:
            raise ArtifactError(f"{root}: expected *.tar shards, found none; check ingest.data")
        with benchmarks.retrieval("heldout") as heldout:
            for shard in log.progress(shards, total=len(shards), what="shards", unit="shard"):
                shard_name = shard.name if shard == root else shard.relative_to(root).as_posix()
                for stem, files in self._samples(shard, shard_name, pairs):
                    name = f"{shard_name}/{stem}"
                    try:
                        jpeg, caption = self._usable(files, params.jpeg_quality)
                    except UnusableImageError as error:
                        pairs.leave_out(str(error), name)
                        continue
                    if held_out(key_of(name), params.seed, self.test_share):
                        heldout.add("test", jpeg, [caption])
                    else:
                        pairs.add(key_of(name), jpeg, caption, {"shard": shard_name, "key": stem})

    def _samples(
        self, shard: Path, shard_name: str, pairs: pairs_artifact.Writer
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """`(key, {suffix: bytes})`: neighbouring members whose paths agree up to the name's first dot."""
        key, files = "", dict[str, bytes]()
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is None:
                        continue
                    path = PurePosixPath(member.name)
                    base, _, suffix = path.name.partition(".")
                    stem = (path.parent / base).as_posix()
                    if stem != key and files:
                        yield key, files
                        files = {}
                    key = stem
                    files["." + suffix.lower()] = file.read()
                # A whole tar ends in blocks of zeros; tarfile takes a cut between members for its end.
                with shard.open("rb") as end:
                    end.seek(tar.offset)
                    if end.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                        raise tarfile.ReadError("unexpected end of data")
        except (OSError, tarfile.TarError):
            pairs.leave_out("truncated or damaged shard", shard_name)
        if files:
            yield key, files

    def _usable(self, files: dict[str, bytes], jpeg_quality: int) -> tuple[bytes, str]:
        image = next((files[suffix] for suffix in files if suffix in IMAGE_SUFFIXES), None)
        if image is None:
            raise UnusableImageError("sample without image")
        caption = self._caption(files)
        if not caption:
            raise UnusableImageError("empty caption")
        return rgb_jpeg(image, jpeg_quality), caption

    def _caption(self, files: dict[str, bytes]) -> str:
        if ".txt" in files:
            return files[".txt"].decode("utf-8", errors="replace").strip()
        try:
            caption = str(json.loads(files.get(".json", b"{}")).get(self.caption_key) or "")
        except (ValueError, AttributeError):
            return ""
        # JSON can hold half a surrogate pair, which is no character.
        return caption.encode(errors="replace").decode().strip()
