"""Many downloads at once, for a caller that just iterates.

Two threads work beside the caller's: one reads the wanted URLs, which may have to wait for them, and one
runs the event loop. Neither runs ahead: rows, connections and bytes are bounded.
"""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from yarl import URL

from clipflow.ingest.rows import Refused
from clipflow.ingest.web.addresses import Lookup, system_lookup
from clipflow.ingest.web.attempt import Browser, RefusedError, parsed
from clipflow.ingest.web.hosts import Hosts
from clipflow.ingest.web.memory import Memory
from clipflow.ingest.web.params import Web
from clipflow.ingest.web.waiting import wait_s

AHEAD = 8
"""Rows read for each download that may run: those of a busy host wait while others go on."""
MAX_BYTES_HELD = 256 * 2**20
"""Files under way and files that the caller hasn't taken yet."""
TAKEN_AT_ONCE = 32
"""Results that the caller takes before the loop hears of it."""
OPEN_FILES = 1024
"""For all but connections."""

T = TypeVar("T")
Result = tuple[T, bytes | Refused]


def fetch(
    batches: Iterator[Sequence[tuple[T, str]]], web: Web, *, lookup: Lookup = system_lookup
) -> Generator[Result[T]]:
    """The file behind each URL, with what came along with it, in the order in which they arrive.

    `batches` is read in another thread, no further than there is work to do. Closing this iterator ends
    every download. Raises what `batches` raises, and ParamsError if there are too few files for so many
    connections.
    """
    with _Downloads(batches, web, lookup) as downloads:
        while results := downloads.take():
            yield from results
            downloads.taken(results)


@dataclass(slots=True)
class _Row(Generic[T]):
    """One file that is wanted."""

    about: T
    url: URL
    num_attempts: int = 0


@dataclass(slots=True)
class _Ended:
    """No more results; for this reason if there is one."""

    error: BaseException | None


class _Downloads(Generic[T]):
    """What is under way. Methods without an underscore are the caller's, `_read` is the reader's."""

    def __init__(
        self, batches: Iterator[Sequence[tuple[T, str]]], web: Web, lookup: Lookup
    ) -> None:
        self._batches, self._web, self._lookup = batches, web, lookup
        self._results: SimpleQueue[Result[T] | _Ended] = SimpleQueue()
        self._wanted = threading.Event()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._memory = Memory(MAX_BYTES_HELD)
        self._hosts: Hosts[_Row[T]] = Hosts(web.per_host)
        self._num_open = self._num_active = 0
        """Rows that were read and not yet taken; downloads under way."""
        self._has_read_all = False
        # Daemons: neither may keep the program running if the caller forgot about the iterator.
        self._thread = threading.Thread(target=self._run, name="web loop", daemon=True)
        self._reader = threading.Thread(target=self._read, name="web reader", daemon=True)

    def __enter__(self) -> _Downloads[T]:
        _allow_open_files(OPEN_FILES + 2 * self._web.concurrency)
        self._wanted.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._wanted.set()
        self._call(self._stop)
        # Not the reader: what it waits for may be the caller.
        self._thread.join()

    def take(self) -> list[Result[T]]:
        """Some results, as soon as there is one; none at the end. Raises what ended the downloads."""
        results: list[Result[T]] = []
        while len(results) < TAKEN_AT_ONCE:
            try:
                result = self._results.get(block=not results)
            except Empty:
                break
            if isinstance(result, _Ended):
                if results:
                    self._results.put(result)
                elif result.error is not None:
                    raise result.error
                break
            results.append(result)
        return results

    def taken(self, results: list[Result[T]]) -> None:
        """The caller is done with these; others may take their place."""
        num_bytes = sum(len(found) for _, found in results if isinstance(found, bytes))
        self._call(lambda: self._make_room(len(results), num_bytes))

    def _call(self, what: Callable[[], object]) -> None:
        """Have the loop do it, and end with the exception that it raises."""

        def call() -> None:
            try:
                what()
            except BaseException as error:
                self._fail(error)

        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            # Closed because it has ended, which the next take() says.
            assert self._loop.is_closed()

    # In the reader's thread.

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            while self._wanted.wait() and not self._is_closed:
                self._wanted.clear()
                batch = next(self._batches, None)
                if batch is None:
                    break
                self._call(lambda batch=batch: self._add(batch))  # type: ignore[misc]
        except BaseException as raised:
            error = raised
        self._call(lambda: self._end_of_batches(error))

    # In the loop's thread.

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._work())
        except BaseExceptionGroup as group:
            error = group.exceptions[0]
        except asyncio.CancelledError:
            pass
        except BaseException as raised:
            error = raised
        self._results.put(_Ended(error))

    async def _work(self) -> None:
        self._end: asyncio.Future[None] = self._loop.create_future()
        browser = Browser(self._web, self._memory, self._lookup)
        async with browser as self._browser, asyncio.TaskGroup() as self._tasks:
            if not self._is_closed:
                self._reader.start()
                await self._end

    def _fail(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _stop(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _add(self, batch: Sequence[tuple[T, str]]) -> None:
        self._num_open += len(batch)
        for about, text in batch:
            try:
                self._wait_in_line(_Row(about, parsed(text)))
            except RefusedError as error:
                self._results.put((about, error.refused))
        self._want_more()
        self._start()

    def _end_of_batches(self, error: BaseException | None) -> None:
        self._has_read_all = True
        if error is not None:
            self._fail(error)
        self._want_more()

    def _make_room(self, num_rows: int, num_bytes: int) -> None:
        self._num_open -= num_rows
        self._memory.take(-num_bytes)
        self._want_more()
        self._start()

    def _want_more(self) -> None:
        if self._num_open < AHEAD * self._web.concurrency:
            self._wanted.set()
        if self._has_read_all and not self._num_open and not self._end.done():
            self._end.set_result(None)

    def _start(self) -> None:
        """Begin as many downloads as may run."""
        if self._is_closed or self._end.done():
            return
        while self._hosts and self._num_active < self._web.concurrency and not self._memory.is_full:
            self._num_active += 1
            self._tasks.create_task(self._download(*self._hosts.take()))

    async def _download(self, host: str, row: _Row[T]) -> None:
        row.num_attempts += 1
        try:
            self._results.put((row.about, await self._browser.get(row.url)))
        except RefusedError as error:
            if error.refused.retryable and row.num_attempts <= self._web.max_retries:
                wait = wait_s(row.num_attempts, error.retry_after_s)
                self._loop.call_later(wait, self._again, row)
            else:
                self._results.put((row.about, error.refused))
        self._num_active -= 1
        self._hosts.done(host)
        self._start()

    def _again(self, row: _Row[T]) -> None:
        self._wait_in_line(row)
        self._start()

    def _wait_in_line(self, row: _Row[T]) -> None:
        self._hosts.add(row.url.raw_host or "", row)


def _allow_open_files(num: int) -> None:
    """Raise the soft limit of open files of this process, as far as the hard one goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num if hard == resource.RLIM_INFINITY else min(num, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
