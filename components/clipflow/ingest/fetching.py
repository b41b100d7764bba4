"""Second pass: the images of the rows, cleaned and kept, a chunk complete or absent."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from clipflow import log
from clipflow.ingest.images import UnusableImageError, clean
from clipflow.ingest.params import Params
from clipflow.ingest.rows import Refused, Row
from clipflow.ingest.staging import OpenChunk, Staging

OPEN_CHUNKS = 8
"""A slow row keeps its chunk open while others go on; no more than this."""
BATCH = 64
"""Rows handed to the source at once."""
MOST_FREQUENT = 3
"""Reasons that the progress bar names."""


def fetch(params: Params, root: Path, staging: Staging, chunks: list[int], *, again: bool) -> None:
    """Fetch the images of some chunks; with `again` of those of their rows that failed and may not now.

    One thread reads (or a loop downloads), and every core decodes: Pillow lets go of the interpreter
    while it does.
    """
    with (
        _Fetching(staging, chunks, again) as fetching,
        # A source that is downloading stops at once when something goes wrong here.
        closing(params.source.images(root, fetching.batches())) as images,
    ):
        for row, found in images:
            fetching.submit(row, found, params)


class _Fetching:
    """What is under way."""

    def __init__(self, staging: Staging, chunks: list[int], again: bool) -> None:
        self._staging, self._chunks, self._again = staging, chunks, again
        num_threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._slots = threading.Semaphore(2 * num_threads)
        self._room = threading.Semaphore(OPEN_CHUNKS)
        self._lock = threading.Lock()
        self._open: set[OpenChunk] = set()
        self._places: dict[int, tuple[OpenChunk, int]] = {}
        self._outcomes: Counter[str] = Counter()
        self._error: BaseException | None = None
        self._bar = log.counter(total=len(chunks), what="fetching", unit="shard")

    def __enter__(self) -> _Fetching:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._error = self._error or KeyboardInterrupt()
        self._pool.shutdown(cancel_futures=kind is not None)
        self._bar.close()
        for chunk in self._open:
            chunk.abandon()
        if kind is None and self._error is not None:
            raise self._error

    def batches(self) -> Iterator[Sequence[Row]]:
        """The rows to fetch, of a few chunks at a time; none waits for rows of another chunk."""
        for number in self._chunks:
            self._wait(self._room)
            chunk = self._staging.open(number, again=self._again)
            with self._lock:
                self._open.add(chunk)
                self._places.update({id(p.row): (chunk, p.place) for p in chunk.todo})
                if not chunk.todo:
                    self._close(chunk)
            for start in range(0, len(chunk.todo), BATCH):
                yield [placed.row for placed in chunk.todo[start : start + BATCH]]

    def submit(self, row: Row, found: bytes | Refused, params: Params) -> None:
        """Clean an image in another thread, as soon as there is one."""
        if isinstance(found, Refused):
            self._put(row, found)
            return
        self._wait(self._slots)
        self._pool.submit(self._clean, row, found, params)

    def _clean(self, row: Row, data: bytes, params: Params) -> None:
        try:
            try:
                self._put(row, clean(data, params.images))
            except UnusableImageError as error:
                self._put(row, Refused(str(error), step="image"))
        except BaseException as error:  # told in the thread that waits
            self._error = self._error or error
        finally:
            self._slots.release()

    def _put(self, row: Row, found: object) -> None:
        with self._lock:
            chunk, index = self._places.pop(id(row))
            chunk.put(index, found)  # type: ignore[arg-type]
            self._outcomes[found.reason if isinstance(found, Refused) else "good"] += 1
            if not chunk.num_left:
                self._close(chunk)

    def _close(self, chunk: OpenChunk) -> None:
        chunk.close()
        self._open.remove(chunk)
        self._room.release()
        told = (f"{count:,} {what}" for what, count in self._outcomes.most_common(MOST_FREQUENT))
        self._bar.set_postfix_str(", ".join(told), refresh=False)
        self._bar.update()

    def _wait(self, semaphore: threading.Semaphore) -> None:
        """Take a slot; raise what went wrong elsewhere, after which none would come free."""
        while not semaphore.acquire(timeout=1.0):
            if self._error is not None:
                raise self._error
        if self._error is not None:
            raise self._error
