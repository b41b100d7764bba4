"""Rewrites in the formats of others: LaCLIP's CSV with line-aligned texts, open_clip's shards."""

from __future__ import annotations

import re

from clipflow.artifacts.pairs import key_of

IMAGES = "clipflow-pairs"
"""Folder of the images that an export writes: `clipflow-pairs/<shard>/<key>.jpg`."""
EXPORTED = re.compile(rf"{IMAGES}/[^/]+/(?P<key>.+)\.jpg")
SUFFIXES = (".png", ".jpg", ".jpeg")
"""LaCLIP's reader passes over a row whose image is called otherwise, but not over its texts."""


def key_of_path(path: str) -> str:
    """The key of the pair whose image a row names: ingest's key of that path, or what an export wrote."""
    exported = EXPORTED.fullmatch(path)
    return exported["key"] if exported else key_of(path)


def path_of(shard: str, key: str, facts: dict[str, object]) -> tuple[str, bool]:
    """The path by which LaCLIP's reader and `key_of_path` find a pair, and whether such a file exists."""
    path = facts.get("path")
    if isinstance(path, str) and path.endswith(SUFFIXES) and key_of_path(path) == key:
        return path, True
    return f"{IMAGES}/{shard}/{key}.jpg", False


def one_line(text: str) -> str:
    """The text without line breaks of any kind: readers of lines differ in what they take for one."""
    return " ".join(text.splitlines())


def plain_spaces(text: str) -> str:
    """The text with single spaces alone, which is how captions are compared."""
    return " ".join(text.split())
