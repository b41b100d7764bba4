"""Artifacts in an object store, behind one small door: stages see local folders only.

    with store.folders({"pairs": "s3://bucket/pairs"}, {"rewrites": "s3://bucket/rewrites"}) as paths:
        run(params, **paths)

An artifact at a URL is the same files under the same names. Its manifest is written last, so what has
none is not complete. On a cluster only a *reference* travels from task to task: a folder with the manifest
and a `store.json` that says where the rest is. So a digest is the same wherever the artifact lies.

CLIPFLOW_STORE    where tasks of a pipeline put what they make: an s3:// URL; unset, artifacts travel whole
CLIPFLOW_DATA     folder for what was downloaded, kept by content; default artifacts/data
CLIPFLOW_SCRATCH  folder for what is being made; default artifacts/scratch

Credentials, region and endpoint come from the environment as boto3 reads it (AWS_ENDPOINT_URL_S3, ...).
A store that can't be reached is told within seconds; one that goes away later is waited for.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import logging
import os
import shutil
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_random_exponential,
)

from clipflow import log
from clipflow.artifacts import lock, manifest
from clipflow.errors import ArtifactError, StoreError

logger = logging.getLogger(__name__)

SCHEME = "s3://"
REFERENCE = "store.json"
PROVENANCE = "provenance.json"
"""Names a run, so equal manifests may stand beside different ones."""
TRANSFERS = 8
"""Objects on the way at once; large ones also go in parts at once."""
ATTEMPTS = 5
"""Times that boto3 tries a call when the store is busy or away, with growing pauses."""
PATIENCE_S = 600.0
"""How long a store that has answered before is waited for: what a stage made is not thrown away lightly."""

Location = str | Path
T = TypeVar("T")


class StoreAwayError(StoreError):
    """The store is busy, or away, or broke off its answer: trying again may help."""


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
    objects = _Objects(url)
    text = objects.small(objects.sizes())[manifest.MANIFEST]
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
    objects = _Objects(url)
    sizes = objects.sizes()
    small = objects.small(sizes)
    folder = _data() / _address(small)
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
    objects = _Objects(url)
    found = objects.entries() or objects.itself()
    if not found:
        raise StoreError(f"{url}: expected objects, found none there; check the URL")
    return sorted((name, entry["Size"], entry["ETag"]) for name, entry in found.items())


def mirror(url: str) -> Path:
    """A local copy of whatever is at a URL, folder or file: not an artifact, so known by its content tags.

    What is here already and hasn't changed is not downloaded again. Raises StoreError.
    """
    objects, found = _Objects(url), listing(url)
    folder = _data() / "mirror" / hashlib.sha256(url.encode()).hexdigest()[:16]
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
    objects, address = _Objects(url), _address(_small(folder))
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    sizes = objects.sizes()
    if manifest.MANIFEST in sizes:
        if address == _address(objects.small(sizes)):
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
        _keep(folder, _data() / address)
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


def _data() -> Path:
    return Path(os.environ.get("CLIPFLOW_DATA") or "artifacts/data")


def scratch() -> Path:
    """The folder for what is being made."""
    return Path(os.environ.get("CLIPFLOW_SCRATCH") or "artifacts/scratch")


def _address(small: Mapping[str, bytes]) -> str:
    """Names an artifact's content and the run that made it: 32 hex digits."""
    return hashlib.sha256(b"".join(small[name] for name in sorted(small))).hexdigest()[:32]


def _small(folder: Path) -> dict[str, bytes]:
    files = (folder / name for name in (manifest.MANIFEST, PROVENANCE))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def _is_there(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


class _Objects:
    """The objects below a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.bucket, _, self.prefix = self.url.removeprefix(SCHEME).partition("/")
        self._given_up = threading.Event()
        if not (is_url(url) and self.bucket and self.prefix):
            raise StoreError(f"'{url}': expected s3://BUCKET/PATH")

    def sizes(self) -> dict[str, int]:
        """Bytes of each object by its name below the URL."""
        return {name: entry["Size"] for name, entry in self.entries().items()}

    def entries(self) -> dict[str, Any]:
        """What the store says of each object (Size, ETag, ...) by its name below the URL."""
        start = len(self.prefix) + 1
        listed = self._list(f"{self.prefix}/")
        found = {e["Key"][start:]: e for e in listed if not e["Key"].endswith("/")}
        for name in found:
            if name.startswith("/") or ".." in name.split("/"):
                raise StoreError(
                    f"{self.url}: refused '{name}', a name that leads out of its folder"
                )
        return found

    def itself(self) -> dict[str, Any]:
        """The same of the object at the URL, by its own name, if there is one."""
        found = [entry for entry in self._list(self.prefix) if entry["Key"] == self.prefix]
        return {self.prefix.rpartition("/")[2]: found[0]} if found else {}

    def parent(self) -> _Objects:
        """The objects beside this one, those of a whole bucket too."""
        parent = copy.copy(self)
        parent.prefix = self.prefix.rpartition("/")[0]
        return parent

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _list(self, prefix: str) -> list[Any]:
        def pages() -> list[Any]:
            listing = _client().get_paginator("list_objects_v2")
            return list(listing.paginate(Bucket=self.bucket, Prefix=prefix))

        return [entry for page in self._ask(pages) for entry in page.get("Contents", [])]

    def small(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """What the content's address is made of. Raises StoreError if there is no complete artifact."""
        if manifest.MANIFEST not in sizes:
            raise StoreError(
                f"{self.url}: expected an artifact, no {manifest.MANIFEST} there;"
                " check the URL, and that the task that makes it has ended well"
            )
        names = (manifest.MANIFEST, PROVENANCE)
        return {name: self.read(name) for name in names if name in sizes}

    def read(self, name: str) -> bytes:
        """The bytes of a small object."""

        def body() -> bytes:
            answer = _client().get_object(Bucket=self.bucket, Key=self._key(name))
            return bytes(answer["Body"].read())

        return self._ask(body)

    def download(self, sizes: Mapping[str, int], folder: Path) -> None:
        """Fetch objects, the manifest last; each file is complete or absent."""
        last = [name for name in sizes if name == manifest.MANIFEST]
        rest = {name: size for name, size in sizes.items() if name not in last}

        def fetch(name: str, update: Callable[[int], Any]) -> None:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            # machines may share the folder, and not every shared volume keeps locks
            aside = file.with_name(f"{file.name}.{socket.gethostname()}-{os.getpid()}.partial")
            key = self._key(name)
            self._ask(
                lambda: _client().download_file(self.bucket, key, str(aside), Callback=update)
            )
            aside.replace(file)

        self._transfer(fetch, rest, "downloading")
        for name in last:
            fetch(name, lambda _: None)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Store files under their names."""

        def send(name: str, update: Callable[[int], Any]) -> None:
            file, key = str(files[name]), self._key(name)
            self._ask(lambda: _client().upload_file(file, self.bucket, key, Callback=update))

        self._transfer(send, {name: f.stat().st_size for name, f in files.items()}, "uploading")

    def delete(self, names: list[str]) -> None:
        """Remove objects."""
        for name in names:
            key = self._key(name)
            self._ask(lambda key=key: _client().delete_object(Bucket=self.bucket, Key=key))  # type: ignore[misc]

    def _transfer(
        self,
        move: Callable[[str, Callable[[int], Any]], None],
        sizes: Mapping[str, int],
        what: str,
    ) -> None:
        with (
            log.counter(total=sum(sizes.values()), what=what, unit="B") as bar,
            ThreadPoolExecutor(TRANSFERS) as pool,
        ):
            moves = [pool.submit(move, name, bar.update) for name in sorted(sizes)]
            try:
                for moved in moves:
                    moved.result()
            except BaseException:
                self._given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, call: Callable[[], T]) -> T:
        """What the store answers; one that has answered before and is away is asked again for a while."""

        def patience_is_out(state: RetryCallState) -> bool:
            if self._given_up.is_set() or _client() not in _HAVE_ANSWERED:
                return True
            return (state.seconds_since_start or 0.0) > PATIENCE_S

        def warn(state: RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome:
                error = state.outcome.exception()
                logger.warning("%s; trying again for %.0f minutes", error, PATIENCE_S / 60)

        retrying = Retrying(
            retry=retry_if_exception_type(StoreAwayError),
            stop=patience_is_out,
            sleep=sleep_using_event(self._given_up),
            wait=wait_random_exponential(max=15),
            before_sleep=warn,
            reraise=True,
        )
        answer: T = retrying(self._told(call))
        _HAVE_ANSWERED.add(_client())
        return answer

    def _told(self, call: Callable[[], T]) -> Callable[[], T]:
        """The call, with what goes wrong as one line: StoreAwayError where waiting may help."""
        from boto3.exceptions import Boto3Error, RetriesExceededError
        from botocore import exceptions as botocore
        from botocore.exceptions import BotoCoreError, ClientError

        passing = (
            botocore.ChecksumError,
            botocore.ConnectionError,
            botocore.FlexibleChecksumError,
            botocore.HTTPClientError,
            botocore.IncompleteReadError,
            RetriesExceededError,
        )

        def told() -> T:
            try:
                return call()
            except (ClientError, BotoCoreError, Boto3Error) as error:
                # boto3 wraps what an upload was refused with.
                cause = error.__context__ if isinstance(error.__context__, ClientError) else error
                if isinstance(cause, (ClientError, botocore.ResponseStreamingError)):
                    _HAVE_ANSWERED.add(_client())
                if isinstance(cause, ClientError):
                    code = str(cause.response.get("Error", {}).get("Code", "unknown"))
                    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                    kind = StoreAwayError if status >= 500 or status == 429 else StoreError
                    raise kind(
                        f"{self.url}: the object store answered {code}; {ADVICE.get(code, RETRY)}"
                    ) from cause
                what = " ".join(str(error).split())
                kind = StoreAwayError if isinstance(error, passing) else StoreError
                raise kind(
                    f"{self.url}: can't use the object store ({what}); check AWS_ENDPOINT_URL_S3,"
                    " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from error

        return told


RETRY = "try again, or look at the store's log"
_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
ADVICE = {
    "NoSuchBucket": "make the bucket, or check the URL",
    "AccessDenied": "give these credentials the right to list, read and write there",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "403": _CREDENTIALS,
}

_HAVE_ANSWERED: weakref.WeakSet[Any] = weakref.WeakSet()
"""Clients whose store is known to be there, as it has answered something."""


@functools.cache
def _client() -> Any:
    """boto3's client, which threads may share."""
    import boto3
    from botocore.config import Config

    # A store of one's own has a name of its own, not one per bucket.
    own = "AWS_ENDPOINT_URL_S3" in os.environ or "AWS_ENDPOINT_URL" in os.environ
    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        max_pool_connections=4 * TRANSFERS,
        connect_timeout=10,
        read_timeout=60,
        s3={"addressing_style": "path"} if own else {},
    )
    return boto3.Session().client("s3", config=config)
