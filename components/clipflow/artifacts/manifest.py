"""What every artifact shares: a folder, complete or absent, whose `manifest.json` says what it is.

A manifest is deterministic (no clocks, hosts or run ids), so equal inputs give equal bytes and an
unchanged output stays a cache hit downstream.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipflow.artifacts import lock
from clipflow.errors import ArtifactError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MADE_BY = {
    "clipflow.pairs/1": "clipflow ingest",
    "clipflow.benchmarks/1": "clipflow ingest",
    "clipflow.rewrites/2": "clipflow rewrite",
    "clipflow.scores/1": "clipflow score",
    "clipflow.checkpoint/1": "clipflow pretrain",
    "clipflow.report/1": "clipflow evaluate",
    "clipflow.part_of_report/1": "clipflow evaluate --task",
    "clipflow.registration/1": "clipflow register",
    "clipflow.export/1": "clipflow export",
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
    partials = [_partial(out) for out in outs]
    for partial in partials:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    yield partials
    _replace(outs, partials)


@contextmanager
def resumable(out: Path, made_with: Any) -> Iterator[Path]:
    """Yield `<out>.partial` with what an interrupted run left there, if it was made with the same.

    On success it becomes `out`. `made_with` is whatever determines the content, ready for JSON.
    Raises ClipflowError if another process is at work there.
    """
    partial = _partial(out)
    partial.mkdir(parents=True, exist_ok=True)
    with lock.held(partial / "lock"):
        note, text = partial / "made_with.json", json.dumps(made_with, sort_keys=True)
        if not note.exists() or note.read_text(encoding="utf-8") != text:
            found = [path for path in partial.iterdir() if path.name != "lock"]
            if found:
                logger.info(
                    "%s: left by a run with other params, inputs or code: begun anew", partial
                )
            for path in found:
                path.unlink()
            aside = partial / "made_with"
            aside.write_text(text, encoding="utf-8")
            aside.replace(note)
        yield partial
        note.unlink()
        (partial / "lock").unlink()
        _replace([out], [partial])


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _replace(outs: Sequence[Path], partials: Sequence[Path]) -> None:
    olds = [out.with_name(out.name + ".old") for out in outs]
    for out, old in zip(outs, olds, strict=True):
        _remove(old)
        if out.exists():
            out.rename(old)
    for out, partial in zip(outs, partials, strict=True):
        partial.rename(out)
    for old in olds:
        _remove(old)


def _remove(folder: Path) -> None:
    """A link goes, not what it leads to."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


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


def kind(folder: Path) -> str:
    """What sort of artifact a folder is: `pairs`, `checkpoint`, ... Raises ArtifactError if it is none."""
    try:
        schema = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["schema"]
        return str(schema.removeprefix("clipflow.").split("/")[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{folder}: expected an artifact, no manifest.json there") from None


def digest(folder: Path) -> str:
    """32 hex digits that identify the artifact's content: the hash of its manifest, which holds hashes."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(files: Iterable[Path]) -> str:
    """The SHA-256 of what files hold, one after the other in the order of their paths, in hex."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON with a final newline, aside first and then renamed into place."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)
