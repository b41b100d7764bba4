"""Downloading: what comes, what is refused and why, and what is tried again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from clipflow.ingest.rows import Refused
from clipflow.ingest.web import Web, fetch
from clipflow.ingest.web.waiting import retry_after_s
from fakes import web as fake

VALUES: dict[str, Any] = {
    "concurrency": 16,
    "per_host": 16,
    "timeout_s": 5.0,
    "max_retries": 0,
    "max_redirects": 3,
    "max_bytes": 1_000_000,
    "user_agent": "clipflow/0.1 (+https://example.org/crawler)",
    "opt_outs": ["noai", "noimageai", "noindex", "noimageindex"],
    "allow_loopback": True,
}
NAMES = {
    "good.test": ["127.0.0.1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "both.test": ["127.0.0.1", "10.0.0.1"],
    "intranet.test": ["192.168.1.1"],
}


def lookup(name: str) -> list[str]:
    if name == "busy.test":
        raise socket.gaierror(socket.EAI_AGAIN, "try again")
    if name not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return NAMES[name]


@pytest.fixture(scope="module")
def server() -> Iterator[fake.Web]:
    with fake.serving() as web:
        yield web


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipflow.ingest.web.waiting.FIRST_WAIT_S", 0.01)


Get = Callable[..., bytes | Refused]


@pytest.fixture
def get(server: fake.Web) -> Get:
    """`get(path or URL, **changes of parameters)`: what becomes of one download."""

    def get(url: str, **changes: Any) -> bytes | Refused:
        web = Web(**{**VALUES, **changes})
        url = server.url(url) if url.startswith("/") else url.replace("PORT", str(server.port))
        ((about, found),) = fetch(iter([[("id", url)]]), web, lookup=lookup)
        assert about == "id"
        return found

    return get


def refused(found: bytes | Refused) -> str:
    assert isinstance(found, Refused), f"{len(found)} bytes came"
    return found.reason + (" (retryable)" if found.retryable else "")


def test_a_file_comes_as_it_is(get: Get, server: fake.Web) -> None:
    assert get("/image/50000") == fake.image(50000)
    assert get("http://good.test:PORT/image/700") == fake.image(700)
    request = server.requests[-1]
    assert request.headers["user-agent"] == VALUES["user_agent"]
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/status/404", "HTTP 404"),
        ("/status/410", "HTTP 410"),
        ("/status/403", "HTTP 403"),
        ("/status/204", "HTTP 204"),
        ("/status/429", "HTTP 429 (retryable)"),
        ("/status/500", "HTTP 500 (retryable)"),
        ("/status/501", "HTTP 501"),
        ("/status/503", "HTTP 503 (retryable)"),
        ("/status/302", "HTTP 302"),
        ("/redirect/4", "too many redirects"),
        ("/loop", "too many redirects"),
        ("/endless", "too many bytes"),
        ("/chunks", "too many bytes"),
        ("/image/1000001", "too many bytes"),
        ("/short", "truncated body (retryable)"),
        ("/bomb", "encoded body"),
        ("/flood", "malformed answer"),
        ("/line", "malformed answer"),
        ("/garbage", "malformed answer"),
        ("/reset", "connection failed (retryable)"),
        ("/empty", "empty body"),
    ],
)
def test_hostile_answers(get: Get, path: str, reason: str) -> None:
    assert refused(get(path)) == reason


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_the_whole_attempt_is_timed(get: Get, path: str) -> None:
    assert refused(get(path, timeout_s=0.3)) == "timed out (retryable)"


def test_what_is_no_image_is_left_to_the_decoder(get: Get) -> None:
    assert get("/html") == b"<html>this domain is for sale</html>"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://good.test/a.jpg", "not http(s)"),
        ("file:///etc/passwd", "not http(s)"),
        ("data:image/png;base64,AAAA", "not http(s)"),
        ("no url", "not http(s)"),
        ("", "not http(s)"),
        ("http://", "malformed URL"),
        ("http://[::1/a.jpg", "malformed URL"),
        ("http://good.test:99999/", "malformed URL"),
        ("http://" + "a" * 300 + ".test/", "name not found"),
        ("http://a..test/", "name not found"),
        ("http://missing.test/a.jpg", "name not found"),
        ("http://busy.test/a.jpg", "name not found (retryable)"),
        ("http://127.0.0.1:1/a.jpg", "connection failed (retryable)"),
        # addresses of the inside, as they are and in disguise
        ("http://10.0.0.1/", "private address"),
        ("http://169.254.169.254/latest/meta-data/", "private address"),
        ("http://[::ffff:10.0.0.1]/", "private address"),
        ("http://[fe80::1%25eth0]/", "private address"),
        ("http://0.0.0.0/", "private address"),
        ("http://10.0.0.1./", "private address"),
        ("http://2130706433/", "malformed URL"),
        ("http://0x7f000001/", "malformed URL"),
        ("http://0177.0.0.1/", "malformed URL"),
        ("http://127.1/", "malformed URL"),
        ("http://①⑥⑨.②⑤④.①⑥⑨.②⑤④/", "private address"),
        # names of the inside
        ("http://metadata.test/", "private address"),
        ("http://intranet.test/", "private address"),
        ("http://both.test:PORT/image/1000", "private address"),
    ],
)
def test_hostile_urls(get: Get, url: str, reason: str) -> None:
    assert refused(get(url)) == reason


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://10.0.0.1/", "private address"),
        ("http://169.254.169.254/latest/meta-data/", "private address"),
        ("http://metadata.test/", "private address"),
        ("//192.168.0.1/a.jpg", "private address"),
        ("http://2852039166/", "malformed URL"),
        ("file:///etc/passwd", "not http(s)"),
        ("gopher://good.test/", "not http(s)"),
        ("http://[bad", "malformed URL"),
    ],
)
def test_redirects_are_checked_like_urls(get: Get, target: str, reason: str) -> None:
    assert refused(get(f"/to?{target}")) == reason


def test_redirects_are_followed_so_far(get: Get) -> None:
    assert get("/redirect/3") == fake.image(1000)
    assert get("/to?/image/900") == fake.image(900)


def test_loopback_is_open_to_tests_alone(get: Get) -> None:
    for url in ("/image/1000", "http://good.test:PORT/image/1000", "http://[::1]:PORT/"):
        assert refused(get(url, allow_loopback=False)) == "private address"


def test_a_name_is_asked_once_and_its_answer_used(server: fake.Web) -> None:
    """A second look-up could say something else than the one that was checked."""
    asked: list[str] = []

    def rebinding(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    urls = [(n, f"http://rebinding.test:{server.port}/image/{1000 + n}") for n in range(50)]
    found = dict(fetch(iter([urls]), Web(**VALUES), lookup=rebinding))
    assert found == {n: fake.image(1000 + n) for n in range(50)}
    assert asked == ["rebinding.test"]


def test_failed_lookups_are_remembered() -> None:
    asked: list[str] = []

    def failing(name: str) -> list[str]:
        asked.append(name)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    urls = [(n, f"http://missing.test/{n}.jpg") for n in range(50)]
    found = fetch(iter([urls]), Web(**VALUES), lookup=failing)
    assert {refused(what) for _, what in found} == {"name not found"}
    assert asked == ["missing.test"]


def test_nothing_of_the_user_goes_along(
    get: Get, server: fake.Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert get("http://me:secret@good.test:PORT/cookie") == fake.image()
    assert get("/to?http://me:secret@good.test/cookie".replace("test/", f"test:{server.port}/"))
    urls = iter([[(n, server.url("/cookie"))] for n in range(5)])
    assert len(list(fetch(urls, Web(**{**VALUES, "concurrency": 1})))) == 5
    for request in server.requests[-8:]:
        assert not {"authorization", "cookie", "referer", "proxy-authorization"} & set(
            request.headers
        )


@pytest.mark.parametrize(
    ("header", "is_refused"),
    [
        ("noai", True),
        ("NoAI", True),
        ("nofollow, noimageai", True),
        ("nofollow|noindex", True),
        ("clipflow: noai", True),
        ("CLIPFLOW : noindex, nofollow", True),
        ("otherbot: noai", False),
        ("otherbot: noai|clipflow: noimageindex", True),
        ("nofollow", False),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST", False),
        ("", False),
    ],
)
def test_opt_outs(get: Get, header: str, is_refused: bool) -> None:
    found = get(f"/robots?{header}".replace(" ", "%20"))
    assert (found == Refused("opted out")) is is_refused
    assert get(f"/robots?{header}".replace(" ", "%20"), opt_outs=[]) == fake.image()


def test_bytes_beyond_a_length_reach_no_other_row(server: fake.Web) -> None:
    """What a server sends too much must not pass for its next answer."""
    urls = [(n, server.url("/long" if n % 2 else f"/image/{1000 + n}")) for n in range(40)]
    web = Web(**{**VALUES, "concurrency": 1, "per_host": 1})
    for n, found in fetch(iter([urls]), web):
        if isinstance(found, bytes):
            assert found == fake.image(1000 if n % 2 else 1000 + n)
        else:
            assert found.retryable


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_tried_again(get: Get, server: fake.Web, status: int) -> None:
    assert get(f"/flaky/{status}/2/a", max_retries=2) == fake.image()
    assert server.counts[f"/flaky/{status}/2/a"] == 3
    assert refused(get(f"/flaky/{status}/2/b", max_retries=1)) == f"HTTP {status} (retryable)"
    assert server.counts[f"/flaky/{status}/2/b"] == 2


def test_lasting_failures_are_not(get: Get, server: fake.Web) -> None:
    before = server.counts["/status/404"]
    assert refused(get("/status/404", max_retries=5)) == "HTTP 404"
    assert server.counts["/status/404"] == before + 1


def test_certificates_are_verified() -> None:
    with fake.serving(tls=fake.self_signed()) as server:
        urls = iter([[("id", server.url("/image/1000"))]])
        ((_, found),) = fetch(urls, Web(**VALUES))
    assert refused(found) == "TLS"


def test_retry_after() -> None:
    assert [retry_after_s(header) for header in ("3", "-1", "", "soon", "nan")] == [3, 0, 0, 0, 0]
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_s("Fri, 31 Dec 2199 23:59:59 GMT") > 3e9


def test_a_user_agent_says_who() -> None:
    for agent in ("", " ", "a\r\nX-Injected: 1", "a\n"):
        with pytest.raises(ValidationError):
            Web(**{**VALUES, "user_agent": agent})
