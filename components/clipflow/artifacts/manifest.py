"""What every artifact shares: a folder, complete or absent, whose `manifest.json` says what it is.

A manifest is deterministic (no clocks, hosts or run ids), so equal inputs give equal bytes and an
unchanged output stays a cache hit downstream.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipflow.errors import ArtifactError

MANIFEST = "manifest.json"
MADE_BY = {
    "clipflow.pairs/1": "clipflow ingest",
    "clipflow.benchmarks/1": "clipflow ingest",
    "clipflow.rewrites/1": "clipflow rewrite",
    "clipflow.checkpoint/1": "clipflow pretrain",
    "clipflow.report/1": "clipflow evaluate",
    "clipflow.registration/1": "clipflow register",
}


@contextmanager
def complete_or_absent(out: Path) -> Iterator[Path]:
    """Yield an empty `<out>.partial` to fill; on success it becomes `out`, replacing what was there.

    After an exception, Ctrl-C or kill -9 `out` is untouched or absent, never half-written; the next
    run clears the leftover `.partial`.
    """
    with all_complete_or_absent(out) as (partial,):
        yield partial


@contextmanager
def all_complete_or_absent(*outs: Path) -> Iterator[list[Path]]:
    """As `complete_or_absent`, for outputs that belong together: new ones never stand beside old ones.

    All old ones are moved away before the first new one takes its place.
    """
    partials = [out.with_name(out.name + ".partial") for out in outs]
    for partial in partials:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    yield partials
    olds = [out.with_name(out.name + ".old") for out in outs]
    for out, old in zip(outs, olds, strict=True):
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
    for out, partial in zip(outs, partials, strict=True):
        partial.rename(out)
    for old in olds:
        shutil.rmtree(old, ignore_errors=True)


def write(folder: Path, schema: str, **facts: Any) -> None:
    """Write `manifest.json` last: a folder without one is not an artifact."""
    write_json(folder / MANIFEST, {"schema": schema, **facts})


def read(folder: Path, schema: str) -> dict[str, Any]:
    """The manifest of `folder`. Raises ArtifactError unless it is a complete artifact of that schema."""
    path = folder / MANIFEST
    advice = f"pass the output of '{MADE_BY[schema]}'"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["schema"]
    except (FileNotFoundError, NotADirectoryError):
        what = "no manifest.json there" if folder.exists() else "no such folder"
        raise ArtifactError(f"{folder}: expected {schema}, {what}; {advice}") from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(
            f"{path}: damaged, not a manifest; make it again with {advice}"
        ) from None
    if found != schema:
        raise ArtifactError(f"{folder}: expected {schema}, found {found}; {advice}")
    return dict(manifest)


def digest(folder: Path) -> str:
    """32 hex digits that identify the artifact's content: the hash of its manifest, which holds hashes."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON with a final newline, aside first and then renamed into place."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)
