"""How DVC knows artifacts: by the hash that stands in dvc.lock."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest
from clipflow.track.git import commit_with

FILE = "dvc.lock"
DIGEST = "_digest"
TAG = "_dvc"
"""Ends the names of tags: `pairs_dvc` stands beside `pairs_digest`."""

logger = logging.getLogger(__name__)


def tags(digests: Mapping[str, Any]) -> dict[str, str]:
    """For each `NAME_digest`, `NAME_dvc`: DVC's hash of the output of dvc.yaml with that digest, if any.

    Only what DVC has in its cache with the same manifest counts: dvc.lock may be older than the folder.
    """
    names = {name.removesuffix(DIGEST): d for name, d in digests.items() if name.endswith(DIGEST)}
    if not Path(FILE).is_file() or not Path(".dvc").is_dir():
        return {}
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    found: dict[str, str] = {}
    try:
        with Repo() as repo:
            for out in repo.index.outs:
                file = Path(out.fs_path) / manifest.MANIFEST
                tree = out.get_obj() if out.hash_info and file.is_file() else None
                entry = tree.get((manifest.MANIFEST,)) if tree and out.hash_info.isdir else None
                if entry is None or entry[1].value != _md5(file):
                    continue
                digest = manifest.digest(file.parent)
                found |= {n + TAG: out.hash_info.value for n, d in names.items() if d == digest}
    except DvcException as error:
        logger.warning("DVC's hashes are not noted: %s", " ".join(str(error).split()))
    return found


def commit_of(hash_: str) -> str | None:
    """The commit whose dvc.lock was the first to have the hash; None if none of this repository has."""
    return commit_with(hash_, FILE)


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
