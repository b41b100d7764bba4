"""Background: an asynchronous function works on many things at once while the caller just iterates.

The event loop lives in a thread of its own. The caller's thread alone reads the things to do, a few more
than are worked on at once, so that the loop is never short of work and nothing is read long before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

AHEAD = 4
"""Things read for each call that may run, so that calls go on while the caller writes what came of them."""

T = TypeVar("T")
R = TypeVar("R")
Opened = Callable[[], AbstractAsyncContextManager[Callable[[T], Awaitable[R]]]]
"""Opens what the function needs, a client for instance, in the loop that it is used in."""


def results(
    things: Iterable[T], opened: Opened[T, R], concurrency: int
) -> Generator[list[R], None, None]:
    """What the opened function returns for each thing, as soon as it does, in lists.

    `concurrency` calls run at once, and some things wait for their turn. The first exception of a call
    ends all, after the results that came before it. So does closing this iterator; the thread has ended
    when that returns.
    """
    things = iter(things)
    num_open = 0
    with _Crew(opened, concurrency) as crew:
        while True:
            some = list(islice(things, AHEAD * concurrency - num_open))
            crew.submit(some)
            num_open += len(some)
            if not num_open:
                return
            done = crew.wait()
            num_open -= len(done)
            yield done


@dataclass
class _Ended:
    """No more results, for this reason."""

    error: BaseException


class _Crew(Generic[T, R]):
    """As many workers as calls may run at once, in a thread with an event loop."""

    def __init__(self, opened: Opened[T, R], concurrency: int) -> None:
        self._opened, self._concurrency = opened, concurrency
        self._loop = asyncio.new_event_loop()
        self._todo: asyncio.Queue[T] = asyncio.Queue()
        self._done: SimpleQueue[R | _Ended] = SimpleQueue()
        # A daemon: an exception whose traceback keeps the iterator open must not keep the program running.
        self._thread = threading.Thread(target=self._run, name="rewrite background", daemon=True)

    def __enter__(self) -> _Crew[T, R]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop)
        self._thread.join()

    def submit(self, things: list[T]) -> None:
        """Have these worked on."""
        if things:
            self._call(lambda: self._put(things))

    def wait(self) -> list[R]:
        """What was done since the last call, at least one result. Raises what ended the work."""
        done: list[R] = []
        while True:
            try:
                result = self._done.get(block=not done)
            except Empty:
                return done
            if isinstance(result, _Ended):
                if not done:
                    raise result.error
                self._done.put(result)
                return done
            done.append(result)

    def _call(self, what: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            # Closed after an error, which the next wait() raises.
            assert self._loop.is_closed()

    def _put(self, things: list[T]) -> None:
        for thing in things:
            self._todo.put_nowait(thing)

    def _stop(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._work())
        except BaseExceptionGroup as group:
            self._done.put(_Ended(group.exceptions[0]))
        except BaseException as error:
            self._done.put(_Ended(error))

    async def _work(self) -> None:
        async with self._opened() as call, asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._worker(call))

    async def _worker(self, call: Callable[[T], Awaitable[R]]) -> None:
        while True:
            self._done.put(await call(await self._todo.get()))
