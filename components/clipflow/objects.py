"""The objects of a store that speaks S3, as boto3 reaches it: listed, fetched, stored and deleted.

Credentials, region and endpoint come from the environment as boto3 reads it (AWS_ENDPOINT_URL_S3, ...).
A store that can't be reached is told within seconds; one that goes away later is waited for.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
from clipflow.artifacts import manifest
from clipflow.errors import StoreError

logger = logging.getLogger(__name__)

SCHEME = "s3://"
TRANSFERS = 8
"""Objects on the way at once; large ones also go in parts at once."""
ATTEMPTS = 5
"""Times that boto3 tries a call when the store is busy or away, with growing pauses."""
PATIENCE_S = 600.0
"""How long a store that has answered before is waited for: what a stage made is not thrown away lightly."""

T = TypeVar("T")


class StoreAwayError(StoreError):
    """The store is busy, or away, or broke off its answer: trying again may help."""


class Objects:
    """The objects below a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.bucket, _, self.prefix = self.url.removeprefix(SCHEME).partition("/")
        self._given_up = threading.Event()
        if not (url.startswith(SCHEME) and self.bucket and self.prefix):
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

    def parent(self) -> Objects:
        """The objects beside this one, those of a whole bucket too."""
        parent = copy.copy(self)
        parent.prefix = self.prefix.rpartition("/")[0]
        return parent

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _list(self, prefix: str) -> list[Any]:
        def pages() -> list[Any]:
            listing = client().get_paginator("list_objects_v2")
            return list(listing.paginate(Bucket=self.bucket, Prefix=prefix))

        return [entry for page in self._ask(pages) for entry in page.get("Contents", [])]

    def read(self, name: str) -> bytes:
        """The bytes of a small object."""

        def body() -> bytes:
            answer = client().get_object(Bucket=self.bucket, Key=self._key(name))
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
            self._ask(lambda: client().download_file(self.bucket, key, str(aside), Callback=update))
            aside.replace(file)

        self._transfer(fetch, rest, "downloading")
        for name in last:
            fetch(name, lambda _: None)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Store files under their names."""

        def send(name: str, update: Callable[[int], Any]) -> None:
            file, key = str(files[name]), self._key(name)
            self._ask(lambda: client().upload_file(file, self.bucket, key, Callback=update))

        self._transfer(send, {name: f.stat().st_size for name, f in files.items()}, "uploading")

    def delete(self, names: list[str]) -> None:
        """Remove objects."""
        for name in names:
            key = self._key(name)
            self._ask(lambda key=key: client().delete_object(Bucket=self.bucket, Key=key))  # type: ignore[misc]

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
            if self._given_up.is_set() or client() not in _HAVE_ANSWERED:
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
        _HAVE_ANSWERED.add(client())
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
                    _HAVE_ANSWERED.add(client())
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
def client() -> Any:
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
