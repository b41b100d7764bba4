"""export: captions and rewrites in the formats that other trainers read."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from clipflow import log
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import TAR_FORMAT, Pairs, add_file
from clipflow.errors import ArtifactError
from clipflow.rewrite.exchange import IMAGES, one_line, path_of

FLAGS = "flags.txt"
"""What to pass to the trainer, beside the exported files."""


class Sample(NamedTuple):
    """A pair with its rewrites."""

    key: str
    caption: str
    rewrites: list[str]
    image: bytes
    facts: dict[str, Any]


class _Export:
    """Pairs with their rewrites, shard by shard, on the way to a folder."""

    def __init__(self, pairs: Path, rewrites: Path, out: Path, folder: Path) -> None:
        self.source, self.rewrites = Pairs(pairs), rewrites
        self.out, self.folder = out, folder
        """Where the files will be, and where they are written."""
        self.num_rewrites = max(
            pc.max(pc.list_value_length(texts)).as_py()
            for _, texts in artifact.by_shard(rewrites, self.source)
        )
        """The most that a caption has."""
        if not self.num_rewrites:
            raise ArtifactError(f"{rewrites}: expected rewrites to export, found none accepted")

    def shards(self) -> Iterator[tuple[str, Iterator[Sample]]]:
        """Each shard's name and its samples."""
        tables = artifact.by_shard(self.rewrites, self.source)
        bar = log.progress(tables, total=len(self.source.shards), what="exporting", unit="shard")
        for number, (_, texts) in enumerate(bar):
            yield self.source.shards[number].stem, self._samples(number, texts.to_pylist())

    def _samples(self, number: int, rewrites: list[list[str]]) -> Iterator[Sample]:
        rows, facts = self.source.rows(number, images=True), self.source.facts(number)
        for row, texts, known in zip(rows, rewrites, facts, strict=True):
            assert row.image is not None
            yield Sample(row.key, row.caption, texts, row.image, known)


def laclip(export: _Export) -> str:
    """`originals.csv` (path, caption) and, line by line beside it, `source_1.txt` to `source_M.txt`.

    Where a caption has fewer than M rewrites, the caption stands in their place. Images that are not known
    by a path are written, too. LaCLIP draws one of a row's M + 1 texts, each as likely.
    """
    names = [f"source_{n}.txt" for n in range(1, export.num_rewrites + 1)]
    num_written = 0
    with ExitStack() as stack:
        streams = [
            stack.enter_context((export.folder / name).open("w", encoding="utf-8", newline="\n"))
            for name in ("originals.csv", *names)
        ]
        rows = csv.writer(streams[0], lineterminator="\n")
        for shard, samples in export.shards():
            for sample in samples:
                path, is_there = path_of(shard, sample.key, sample.facts)
                if not is_there:
                    num_written += 1
                    file = export.folder / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(sample.image)
                caption = one_line(sample.caption)
                rows.writerow([path, caption])
                for stream, text in zip(
                    streams[1:], _filled(sample, export.num_rewrites), strict=True
                ):
                    stream.write(f"{one_line(text)}\n")
    root = str(export.out)
    if num_written < len(export.source):
        root = "YOUR_IMAGES"
    if 0 < num_written < len(export.source):
        root += f" (with {export.out / IMAGES} linked into it)"
    files = " ".join(str(export.out / name) for name in names)
    return (
        f"--train-data {export.out / 'originals.csv'} --root {root}\n"
        f"--aug-text --augmented_caption_filelist {files}\n"
    )


def open_clip(export: _Export) -> str:
    """Webdataset shards whose `<key>.json` has `caption` and `rewrite_1` to `rewrite_M`.

    What a pair has fewer of is left out: open_clip then draws among those that there are, each as likely.
    """
    for shard, samples in export.shards():
        with tarfile.open(export.folder / f"{shard}.tar", "w", format=TAR_FORMAT) as tar:
            for sample in samples:
                numbered = {f"rewrite_{n}": text for n, text in enumerate(sample.rewrites, start=1)}
                facts = {**sample.facts, "caption": sample.caption, **numbered}
                add_file(tar, f"{sample.key}.jpg", sample.image)
                add_file(tar, f"{sample.key}.txt", sample.caption.encode())
                add_file(tar, f"{sample.key}.json", json.dumps(facts, sort_keys=True).encode())
    names = ["caption", *(f"rewrite_{n}" for n in range(1, export.num_rewrites + 1))]
    share = f"{1 / len(names):.6g}"
    return (
        f"--train-data '{_braces(export, export.out)}' --train-num-samples {len(export.source)}\n"
        "--dataset-type webdataset\n"
        f"--json-text-key '{';'.join(names)}' --json-text-key-probs {' '.join([share] * len(names))}\n"
    )


def open_clip_txt(export: _Export) -> str:
    """One set of shards for each text, in folders `caption` and `rewrite_1` to `rewrite_M`.

    For open_clip up to 3.3, which reads `<key>.txt` alone; it takes the images M + 1 times. Where a caption
    has fewer rewrites, it stands in their place.
    """
    names = ["caption", *(f"rewrite_{n}" for n in range(1, export.num_rewrites + 1))]
    for name in names:
        (export.folder / name).mkdir()
    for shard, samples in export.shards():
        with ExitStack() as stack:
            tars = [
                stack.enter_context(
                    tarfile.open(export.folder / name / f"{shard}.tar", "w", format=TAR_FORMAT)
                )
                for name in names
            ]
            for sample in samples:
                texts = [sample.caption, *_filled(sample, export.num_rewrites)]
                for tar, text in zip(tars, texts, strict=True):
                    add_file(tar, f"{sample.key}.jpg", sample.image)
                    add_file(tar, f"{sample.key}.txt", text.encode())
    shards = "::".join(_braces(export, export.out / name) for name in names)
    return (
        f"--train-data '{shards}' --train-num-samples {len(export.source)}\n"
        "--dataset-type webdataset --dataset-resampled\n"
    )


FORMATS: dict[str, Callable[[_Export], str]] = {
    "laclip": laclip,
    "open_clip": open_clip,
    "open_clip_txt": open_clip_txt,
}


def run(*, pairs: Path, rewrites: Path, out: Path, to: str) -> str:
    """Write `out` in one of `FORMATS`; return the flags by which its trainer reads it.

    Raises ArtifactError if `out` is there already: it may hold anything.
    """
    if out.exists():
        raise ArtifactError(f"{out}: there already; remove it, or pass another --out")
    with manifest.complete_or_absent(out) as folder:
        flags = FORMATS[to](_Export(pairs, rewrites, out, folder))
        (folder / FLAGS).write_text(flags, encoding="utf-8")
    return flags


def _filled(sample: Sample, num: int) -> list[str]:
    """The rewrites, filled up with the caption."""
    return [*sample.rewrites, *[sample.caption] * (num - len(sample.rewrites))]


def _braces(export: _Export, folder: Path) -> str:
    """All shards in a folder, as webdataset's readers expand them."""
    first, last = (export.source.shards[n].stem for n in (0, -1))
    return f"{folder}/{{{first}..{last}}}.tar" if first != last else f"{folder}/{first}.tar"
