"""Many downloads at once: bounds, order of work, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from clipflow.errors import ParamsError
from clipflow.ingest.rows import Refused
from clipflow.ingest.web import Web, downloads, fetch
from fakes import web as fake

Batches = Iterator[Sequence[tuple[int, str]]]


def params(**changes: Any) -> Web:
    values: dict[str, Any] = {
        "concurrency": 8, "per_host": 8, "timeout_s": 20.0, "max_retries": 0, "max_redirects": 3,
        "max_bytes": 10**7, "user_agent": "clipflow/0.1", "opt_outs": [], "allow_loopback": True,
    }  # fmt: skip
    return Web(**{**values, **changes})


def to_loopback(name: str) -> list[str]:
    return ["127.0.0.1"]


@pytest.fixture
def server() -> Iterator[fake.Web]:
    with fake.serving() as web:
        yield web


def batches(server: fake.Web, num: int, path: str = "/image/1000", size: int = 10) -> Batches:
    for start in range(0, num, size):
        yield [(n, server.url(path)) for n in range(start, min(num, start + size))]


def num_threads() -> int:
    return sum(thread.name.startswith("web ") for thread in threading.enumerate())


def test_every_row_comes_back_once(server: fake.Web) -> None:
    mixed = [(n, server.url(("/image/500", "/status/404", "/nowhere")[n % 3])) for n in range(300)]
    found = list(fetch(iter([mixed[:1], [], mixed[1:]]), params()))
    assert sorted(about for about, _ in found) == list(range(300))
    assert sum(isinstance(what, bytes) for _, what in found) == 100
    assert list(fetch(iter([]), params())) == []


def test_downloads_at_once() -> None:
    with fake.serving(fake.Web(pictures=[fake.image()], slow=1.0, slow_s=0.01)) as server:
        list(fetch(batches(server, 100, "/img/1.jpg"), params(concurrency=6)))
        assert server.max_active == server.num_connections == 6


def test_a_busy_host_keeps_none_from_others() -> None:
    """Rows of a host that doesn't answer fill its own share, not all connections."""
    server = fake.Web(pictures=[fake.image()])
    with fake.serving(server):
        silent = [(n, server.url("/silent", "silent.test")) for n in range(30)]
        good = [(n, server.url(f"/img/{n}.jpg", "good.test")) for n in range(30, 60)]
        started = time.monotonic()
        found = fetch(iter([silent + good]), params(per_host=2, timeout_s=1.0), lookup=to_loopback)
        first = [next(found) for _ in range(30)]
        assert time.monotonic() - started < 0.9
        assert {about for about, _ in first} == set(range(30, 60))
        assert server.counts["/silent"] == 2
        found.close()


def test_waiting_for_another_attempt_holds_no_connection(
    server: fake.Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipflow.ingest.web.waiting.FIRST_WAIT_S", 0.0)
    flaky = [(n, server.url(f"/flaky/503/1/{n}?retry_after=1")) for n in range(8)]
    good = [(n, server.url("/image/1000")) for n in range(8, 40)]
    started, found = time.monotonic(), fetch(iter([flaky + good]), params(max_retries=1))
    first = [next(found) for _ in range(32)]
    assert time.monotonic() - started < 0.9
    assert {about for about, _ in first} == set(range(8, 40))
    assert {about for about, what in found if isinstance(what, bytes)} == set(range(8))
    assert time.monotonic() - started > 1.0


def test_rows_are_read_only_as_they_are_needed(server: fake.Web) -> None:
    num_read = 0

    def counted() -> Batches:
        nonlocal num_read
        for batch in batches(server, 100_000):
            num_read += len(batch)
            yield batch

    found = fetch(counted(), params())
    next(found)
    time.sleep(0.5)
    assert num_read <= downloads.AHEAD * 8 + 10
    for _ in range(500):
        next(found)
    assert 500 < num_read <= 501 + downloads.AHEAD * 8 + downloads.TAKEN_AT_ONCE + 10
    found.close()


def test_bytes_wait_in_bounded_memory(server: fake.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the caller does something else, files pile up so far; no time runs out meanwhile."""
    monkeypatch.setattr(downloads, "MAX_BYTES_HELD", 10**6)
    found = fetch(batches(server, 60, "/image/100000"), params(timeout_s=0.5))
    sizes = [len(next(found)[1])]  # type: ignore[arg-type]
    time.sleep(1.0)
    assert server.counts["/image/100000"] <= 14
    sizes += [len(what) for _, what in found if isinstance(what, bytes)]
    assert sizes == [100_000] * 60


def test_a_file_larger_than_the_memory_comes_alone(
    server: fake.Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES_HELD", 1000)
    found = fetch(batches(server, 12, "/image/5000"), params())
    assert [len(what) for _, what in found if isinstance(what, bytes)] == [5000] * 12


def test_results_come_while_the_rows_wait_for_them(server: fake.Web) -> None:
    """As where shards are closed before others are begun: the rows block until results are taken."""
    done = threading.Semaphore(0)

    def waiting() -> Batches:
        for batch in batches(server, 50):
            yield batch
            for _ in batch:
                assert done.acquire(timeout=10)

    for _ in fetch(waiting(), params()):
        done.release()


def test_closing_ends_all_at_once(server: fake.Web) -> None:
    forever = threading.Event()

    def blocked() -> Batches:
        yield [(0, server.url("/image/1000"))] + [(n, server.url("/silent")) for n in range(1, 20)]
        forever.wait(30)

    found = fetch(blocked(), params())
    assert next(found)[0] == 0
    started = time.monotonic()
    found.close()
    assert time.monotonic() - started < 0.5
    assert not any(thread.name == "web loop" for thread in threading.enumerate())
    forever.set()
    deadline = time.monotonic() + 5
    while num_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() == 0


def test_an_exception_of_the_caller_ends_all(server: fake.Web) -> None:
    def work() -> None:
        for _ in fetch(batches(server, 10**6), params()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    deadline = time.monotonic() + 5
    while num_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() == 0


def test_an_exception_of_the_rows_reaches_the_caller(server: fake.Web) -> None:
    def failing() -> Batches:
        yield from batches(server, 20)
        raise LookupError("of the rows")

    with pytest.raises(LookupError, match="of the rows"):
        list(fetch(failing(), params()))
    assert num_threads() == 0


@pytest.mark.parametrize("batch", [[(1, None)], [3], 5])
def test_rows_that_are_none_end_in_an_exception(batch: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        list(fetch(iter([batch]), params()))


def test_too_few_files_are_no_fault_of_the_web(server: fake.Web) -> None:
    def none_left(name: str) -> list[str]:
        raise OSError(24, "Too many open files")

    rows = iter([[(1, server.url("/image/1000", "good.test"))]])
    with pytest.raises(ParamsError, match=r"web.concurrency: .*ulimit -n"):
        list(fetch(rows, params(), lookup=none_left))


def test_malformed_urls_take_no_connection(server: fake.Web) -> None:
    rows = [(n, "http://[bad") for n in range(1000)]
    assert {what for _, what in fetch(iter([rows]), params())} == {Refused("malformed URL")}
