"""Artifacts in an object store, behind one small door: stages see local folders only.

    with store.folders({"pairs": "s3://bucket/pairs"}, {"rewrites": "s3://bucket/rewrites"}) as paths:
        run(params, **paths)

An artifact at a URL is the same files under the same names. Its manifest is written last, so what has
none is not complete. On a cluster only a *reference* travels from task to task: a folder with the manifest
and a `store.json` that says where the rest is. So a digest is the same wherever the artifact lies.

CLIPFLOW_STORE    where tasks of a pipeline put what they make: an s3:// URL; unset, artifacts travel whole
CLIPFLOW_DATA     folder for what was downloaded, kept by content; default artifacts/data
CLIPFLOW_SCRATCH  folder for what is being made; default artifacts/scratch
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clipflow import log
from clipflow.artifacts import lock, manifest
from clipflow.errors import ArtifactError, StoreError
from clipflow.objects import SCHEME, Objects

logger = logging.getLogger(__name__)

REFERENCE = "store.json"
PROVENANCE = "provenance.json"
"""Names a run, so equal manifests may stand beside different ones."""

Location = str | Path


def everything(name: str) -> bool:
    """Want every file of an artifact."""
    return True


def is_url(location: Location) -> bool:
    """Whether a location is in an object store."""
    return str(location).startswith(SCHEME)


def refer(folder: Path, url: str) -> None:
    """Make `folder` stand for the artifact at `url`: its manifest, and where the rest is.

    Raises StoreError if there is none.
    """
    objects = Objects(url)
    text = _published(objects, objects.sizes())[manifest.MANIFEST]
    with manifest.complete_or_absent(folder) as partial:
        (partial / manifest.MANIFEST).write_bytes(text)
        manifest.write_json(partial / REFERENCE, {"url": url})


def url_of(folder: Path) -> str:
    """Where the artifact is that `folder` stands for. Raises ArtifactError if it is no reference."""
    if found := reference(folder):
        return found
    raise ArtifactError(
        f"{folder}: expected an artifact in the object store, found no {REFERENCE} there;"
        " set CLIPFLOW_STORE for the task that makes it"
    )


def reference(folder: Path) -> str | None:
    """The URL of the artifact that `folder` stands for; None if it is no reference."""
    try:
        return str(json.loads((folder / REFERENCE).read_text(encoding="utf-8"))["url"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(
            f"{folder / REFERENCE}: damaged, expected the URL of an artifact; make it again"
        ) from None


def at_hand(location: Location, wanted: Callable[[str], bool] = everything) -> Path:
    """A local folder with the files of an artifact that are wanted; its manifest is always there.

    What is not here yet is downloaded, once for all processes of the machine. Raises StoreError.
    """
    url = str(location) if is_url(location) else reference(Path(location))
    if url is None:
        return Path(location)
    objects = Objects(url)
    sizes = objects.sizes()
    small = _published(objects, sizes)
    folder = data() / _address(small)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder.with_name(f"{folder.name}.lock"), wait=True):
        missing = {
            name: size
            for name, size in sizes.items()
            if (name in small or wanted(name)) and not _is_there(folder / name, size)
        }
        if missing:
            logger.info("%s: %d files, %.1f MB", url, len(missing), sum(missing.values()) / 1e6)
            objects.download(missing, folder)
    return folder


def listing(url: str) -> list[tuple[str, int, str]]:
    """Name below the URL, bytes and content tag of each object; of an object itself, its own name.

    Raises StoreError if there is nothing.
    """
    objects = Objects(url)
    found = objects.entries() or objects.itself()
    if not found:
        raise StoreError(f"{url}: expected objects, found none there; check the URL")
    return sorted((name, entry["Size"], entry["ETag"]) for name, entry in found.items())


def mirror(url: str) -> Path:
    """A local copy of whatever is at a URL, folder or file: not an artifact, so known by its content tags.

    What is here already and hasn't changed is not downloaded again. Raises StoreError.
    """
    objects, found = Objects(url), listing(url)
    folder = data() / "mirror" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder.with_name(f"{folder.name}.lock"), wait=True):
        note = folder.with_name(f"{folder.name}.json")
        had = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        tags = {name: tag for name, _, tag in found}
        for name in had.keys() - tags.keys():
            (folder / name).unlink(missing_ok=True)
        known = {name: tag for name, tag in had.items() if tags.get(name) == tag}
        manifest.write_json(note, known)
        missing = {
            name: size
            for name, size, _ in found
            if not (name in known and _is_there(folder / name, size))
        }
        itself = found[0][0] if not objects.sizes() else None
        if missing:
            logger.info("%s: %d files, %.1f MB", url, len(missing), sum(missing.values()) / 1e6)
            (objects.parent() if itself else objects).download(missing, folder)
        manifest.write_json(note, tags)
    return folder / itself if itself else folder


def publish(folder: Path, url: str) -> None:
    """Put a complete artifact at `url`, its manifest last. Does nothing if it is there already.

    Raises StoreError; until the manifest is there, nobody takes what is for an artifact.
    """
    objects, address = Objects(url), _address(_small(folder))
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    sizes = objects.sizes()
    if manifest.MANIFEST in sizes:
        if address == _address(_published(objects, sizes)):
            return
        objects.delete([manifest.MANIFEST])
    # A place named by content holds nothing else, so what an interrupted upload left there is right.
    kept = sizes if url.rstrip("/").endswith(address) else {}
    last = files.pop(manifest.MANIFEST)
    todo = {n: f for n, f in files.items() if kept.get(n) != f.stat().st_size}
    objects.upload(todo)
    objects.delete([name for name in sizes if name not in files and name != manifest.MANIFEST])
    objects.upload({manifest.MANIFEST: last})
    logger.info("published %s: %d files", url, len(todo) + 1)


@contextmanager
def folders(
    inputs: Mapping[str, Location],
    outputs: Mapping[str, Location],
    *,
    publish_to: str | None = None,
    made_with: str = "",
    wanted: Callable[[str], bool] = everything,
) -> Iterator[dict[str, Path]]:
    """Local folders for a stage's inputs and outputs, by name; outputs are published when it is done.

    An output goes to its URL or, if it is a local folder and `publish_to` is a URL, below that to a place
    named by its content, and the folder gets a reference. It is made in scratch, in a place named by
    `made_with` and the inputs: a task that is tried again finds what the one before had done.
    """
    paths = {name: at_hand(location, wanted) for name, location in inputs.items()}
    known = [
        manifest.digest(path) for path in paths.values() if (path / manifest.MANIFEST).exists()
    ]
    made: dict[str, Path] = {}
    for name, location in outputs.items():
        if is_url(location) or publish_to:
            target = str(location) if is_url(location) else name
            key = hashlib.sha256(json.dumps([target, made_with, known]).encode()).hexdigest()[:16]
            made[name] = scratch() / "outputs" / key / name
            made[name].parent.mkdir(parents=True, exist_ok=True)
            if made[name].is_symlink() and not made[name].exists():
                made[name].unlink()  # what was made has been cleared away
    yield paths | {name: made.get(name, Path(location)) for name, location in outputs.items()}
    if not log.is_main_process():
        return
    for name, folder in made.items():
        location, address = outputs[name], _address(_small(folder))
        url = str(location)
        if not is_url(location):
            kind = manifest.kind(folder)
            url = f"{str(publish_to).rstrip('/')}/{kind}/{address}"
        publish(folder, url)
        _keep(folder, data() / address)
        if not is_url(location):
            refer(Path(location), url)


def _keep(made: Path, folder: Path) -> None:
    """What was made is what a later stage on this machine would download, and is not made again by a
    task that is tried again: a link stays in its place.
    """
    if made.is_symlink():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder.with_name(f"{folder.name}.lock"), wait=True):
        # Others may be reading what is there, which is the same.
        for file in (f for f in made.rglob("*") if f.is_file()):
            place = folder / file.relative_to(made)
            if not _is_there(place, file.stat().st_size):
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
    shutil.rmtree(made)
    made.symlink_to(folder.absolute())


def data() -> Path:
    """The folder for copies of what is elsewhere."""
    return Path(os.environ.get("CLIPFLOW_DATA") or "artifacts/data")


def scratch() -> Path:
    """The folder for what is being made."""
    return Path(os.environ.get("CLIPFLOW_SCRATCH") or "artifacts/scratch")


def _address(small: Mapping[str, bytes]) -> str:
    """Names an artifact's content and the run that made it: 32 hex digits."""
    return hashlib.sha256(b"".join(small[name] for name in sorted(small))).hexdigest()[:32]


def _published(objects: Objects, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """What the content's address is made of. Raises StoreError if there is no complete artifact."""
    if manifest.MANIFEST not in sizes:
        raise StoreError(
            f"{objects.url}: expected an artifact, no {manifest.MANIFEST} there;"
            " check the URL, and that the task that makes it has ended well"
        )
    names = (manifest.MANIFEST, PROVENANCE)
    return {name: objects.read(name) for name in names if name in sizes}


def _small(folder: Path) -> dict[str, bytes]:
    files = (folder / name for name in (manifest.MANIFEST, PROVENANCE))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def _is_there(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size
