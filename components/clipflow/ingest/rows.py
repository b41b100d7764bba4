"""What sources give: rows, each an image somewhere with its captions; and why an image did not come."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source. What it says is JSON-able, so that it can wait on disk for its image."""

    name: str
    """What people know it by: a URL, a path below `ingest.data`, a shard and a key in it."""
    captions: tuple[str, ...] = ()
    """Of a pair the first; a held-out retrieval sample has them all."""
    key: str = ""
    """Identifies the sample for every later join, by what it is and not by its number."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """What its source needs to get the image."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Goes along as `<key>.json`."""
    label: int | None = None
    """Class index in the source's classification task."""
    held_out: bool = False
    """To measure by, not to train on."""
    group: str = ""
    """Shards never hold rows of two groups, so that a group that is added appends shards."""
    image: bytes | None = None
    """The image itself, of a source that makes it together with its captions."""
    refused: str = ""
    """Why there is no sample in this row; counted and listed by this reason."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an image did not come."""

    reason: str
    """Short and countable: `HTTP 404`, `timed out`, `unreadable image`."""
    retryable: bool = False
    """Whether it may come another time."""
    step: str = "fetch"
    """Where it went: the steps of `artifacts.pairs`."""


def in_share(text: str, share: float) -> bool:
    """Whether a text is in a share of all texts: by its hash, so that others don't move it."""
    draw = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
    return int.from_bytes(draw[:8], "big") < share * 2**64
