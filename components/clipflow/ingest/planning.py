"""First pass, over rows without their images: which are taken, in which chunk."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipflow import log
from clipflow.errors import ArtifactError
from clipflow.ingest.captions import UnusableCaptionError, clean
from clipflow.ingest.curation import Curator
from clipflow.ingest.params import Params
from clipflow.ingest.rows import Row, in_share
from clipflow.ingest.staging import Staging, refuse

logger = logging.getLogger(__name__)

DUPLICATE_KEY = "duplicate key"
CURATED = "not drawn by curation"


def plan(params: Params, root: Path, staging: Staging) -> None:
    """Deal the source's rows out in chunks. Raises ArtifactError if the source can't be read.

    Captions are cleaned here, so that nothing is fetched for a caption that isn't taken; what needs all
    rows to be known (equal keys, curation) follows in a second round over the chunks.
    """
    keys, num_chunks = array("Q"), 0
    curator = Curator(params.curation, params.seed) if params.curation else None
    for chunk in _chunks(_taken(params, root), params.samples_per_shard):
        usable = [row for row in chunk if not row.refused]
        keys.extend(_number(row.key) for row in usable)
        if curator:
            curator.count([row.captions[0] for row in usable])
        staging.write_rows(num_chunks, chunk)
        num_chunks += 1
    repeated = _repeated(keys)
    if repeated.any() or curator:
        start = 0
        for number in range(num_chunks):
            rows = staging.rows(number)
            usable = [row for row in rows if not row.refused]
            marks = repeated[start : start + len(usable)].tolist()
            start += len(usable)
            kept = [True] * len(usable)
            if curator:
                kept = curator.keeps([r.key for r in usable], [r.captions[0] for r in usable])
            reasons = (
                DUPLICATE_KEY if mark else "" if keep else CURATED
                for mark, keep in zip(marks, kept, strict=True)
            )
            refused = ["" if row.refused else next(reasons) for row in rows]
            if any(refused):
                staging.write_rows(number, refuse(rows, refused))
    facts = {"curation": curator.facts()} if curator else {}
    staging.planned(num_chunks=num_chunks, num_rows=len(keys), **facts)
    logger.info("%d rows in %d chunks", len(keys), num_chunks)


def _taken(params: Params, root: Path) -> Iterator[Row]:
    """The rows of the sample, with clean captions."""
    wanted = _keys(params.keys_file) if params.keys_file else None
    num_taken = 0
    rows = params.source.rows(params, root)
    for row in log.progress(rows, total=None, what="rows", unit="row"):
        if row.refused:
            yield row
            continue
        if wanted is not None and row.key not in wanted:
            continue
        if not in_share(f"{params.seed}/sample/{row.key}", params.sample):
            continue
        if reason := _out_of_bounds(row.facts, params):
            yield Row(row.name, refused=reason, group=row.group)
            continue
        captions = list[str]()
        for caption in row.captions:
            try:
                captions.append(clean(caption, params.captions))
            except UnusableCaptionError as error:
                yield Row(row.name, refused=str(error), group=row.group)
        if not captions:
            continue
        yield Row(**{**{n: getattr(row, n) for n in Row.__slots__}, "captions": tuple(captions)})
        num_taken += 1
        if num_taken == params.limit:
            return


def _out_of_bounds(facts: Mapping[str, Any], params: Params) -> str:
    """Which number that goes along with a row is missing or forbids to take it; empty: none."""
    for bounds, sign in ((params.at_least, 1), (params.at_most, -1)):
        for name, bound in bounds.items():
            try:
                value = float(facts[name])
            except (KeyError, TypeError, ValueError):
                return f"no {name}"
            if not sign * value >= sign * bound:  # NaN is out as well
                return f"{name} below {bound:g}" if sign > 0 else f"{name} above {bound:g}"
    return ""


def _chunks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """`size` rows that may become samples, or fewer where a group ends, and refused ones among them."""
    chunk, num_usable = list[Row](), 0
    for row in rows:
        if chunk and (num_usable == size or row.group != chunk[0].group):
            yield chunk
            chunk, num_usable = [], 0
        chunk.append(row)
        num_usable += not row.refused
    if chunk:
        yield chunk


def _number(key: str) -> int:
    """64 bits for a key: 8 bytes a row instead of a string."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def _repeated(keys: array[int]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which keys there were before."""
    repeated = np.ones(len(keys), bool)
    repeated[np.unique(np.frombuffer(keys, np.uint64), return_index=True)[1]] = False
    return repeated


def _keys(file: str) -> set[str]:
    try:
        keys = set(Path(file).read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"ingest.keys_file: expected a file with a key a line, got '{file}' ({error});"
            " give its path"
        ) from None
    if not keys:
        raise ArtifactError(f"{file}: expected a key a line, found none; see ingest.keys_file")
    return keys
