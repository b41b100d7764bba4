"""webdataset: existing tar shards of `<key>.jpg` (or png, webp, ...) with `<key>.txt` or `<key>.json`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow import log
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
        held: list[tuple[bytes, list[str]]] = []
        for shard in log.progress(shards, total=len(shards), what="shards", unit="shard"):
            for key, files in self._samples(shard, pairs):
                name = f"{shard.name}/{key}"
                image = next(
                    (data for suffix, data in files.items() if suffix in IMAGE_SUFFIXES), None
                )
                caption = self._caption(files)
                if image is None:
                    pairs.leave_out("sample without image", name)
                elif not caption:
                    pairs.leave_out("empty caption", name)
                else:
                    try:
                        jpeg = rgb_jpeg(image, params.jpeg_quality)
                    except UnusableImageError as error:
                        pairs.leave_out(str(error), name)
                        continue
                    if held_out(key, params.seed, self.test_share):
                        held.append((jpeg, [caption]))
                    else:
                        pairs.add(key, jpeg, caption, {"shard": shard.name})
        if held:
            benchmarks.add_retrieval("heldout", held)

    def _samples(
        self, shard: Path, pairs: pairs_artifact.Writer
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """`(key, {suffix: bytes})`: neighbouring members whose names agree up to the first dot."""
        key, files = "", dict[str, bytes]()
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is None:
                        continue
                    path = PurePosixPath(member.name)
                    stem, _, suffix = path.name.partition(".")
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
            pairs.leave_out("truncated or damaged shard", shard.name)
        if files:
            yield key, files

    def _caption(self, files: dict[str, bytes]) -> str:
        if ".txt" in files:
            return files[".txt"].decode("utf-8", errors="replace").strip()
        try:
            return str(json.loads(files.get(".json", b"{}")).get(self.caption_key) or "").strip()
        except (ValueError, AttributeError):
            return ""
