"""One attempt to download one file, by a session that trusts nobody.

Nothing of the user goes along: no cookies, no credentials of URLs or netrc, no proxies of the environment.
Nothing is decoded, so that no encoding can unfold into gigabytes; TLS certificates are verified.
"""

from __future__ import annotations

import asyncio
import errno
import socket

import aiohttp
from aiohttp import ClientResponse, hdrs
from yarl import URL

from clipflow.errors import ParamsError
from clipflow.ingest.rows import Refused
from clipflow.ingest.web.addresses import (
    Lookup,
    PrivateAddressError,
    Resolver,
    is_allowed,
    is_disguised,
)
from clipflow.ingest.web.memory import Memory
from clipflow.ingest.web.opt_outs import agent_token, opted_out
from clipflow.ingest.web.params import Web
from clipflow.ingest.web.waiting import retry_after_s

KEEP_ALIVE_S = 1.0
"""Idle connections: hosts are many, and each connection is an open file."""
UNKNOWN_BYTES = 2**20
"""Room taken for a file whose length isn't told."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_IMPLEMENTED = 501
AGAIN = frozenset({408, 425, 429})


class RefusedError(Exception):
    """Why there is no file, and how long its server wants to be left alone."""

    def __init__(self, reason: str, *, retryable: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.refused = Refused(reason, retryable=retryable)
        self.retry_after_s = retry_after_s


class Browser:
    """Gets files. To be entered and used in one event loop."""

    def __init__(self, web: Web, memory: Memory, lookup: Lookup) -> None:
        self._web, self._memory, self._lookup = web, memory, lookup
        self._opt_outs = frozenset(directive.lower() for directive in web.opt_outs)
        self._agent = agent_token(web.user_agent)

    async def __aenter__(self) -> Browser:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._web.concurrency,
                limit_per_host=self._web.per_host,
                resolver=Resolver(self._lookup, allow_loopback=self._web.allow_loopback),
                use_dns_cache=False,  # the resolver has one, which also knows failures
                keepalive_timeout=KEEP_ALIVE_S,
            ),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={
                hdrs.USER_AGENT: self._web.user_agent,
                hdrs.ACCEPT: "image/*,*/*;q=0.5",
                hdrs.ACCEPT_ENCODING: "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, url: URL) -> bytes:
        """The file. Its length stays taken in the memory, for whoever holds it to give back.

        Raises RefusedError.
        """
        try:
            async with asyncio.timeout(self._web.timeout_s) as clock:
                return await self._follow(url, clock)
        except TimeoutError:
            raise RefusedError("timed out", retryable=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _refusal(error) from None

    async def _follow(self, url: URL, clock: asyncio.Timeout) -> bytes:
        for _ in range(self._web.max_redirects + 1):
            self._check(url)
            if url.raw_user is not None or url.raw_password is not None:
                url = url.with_user(None)  # and without a password
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status not in REDIRECTS or hdrs.LOCATION not in response.headers:
                    self._judge(response)
                    return await self._body(response, clock)
                url = url.join(parsed(response.headers[hdrs.LOCATION]))
        raise RefusedError("too many redirects")

    def _check(self, url: URL) -> None:
        """Refuse what can be known from a URL alone; names are checked as they are resolved."""
        if url.scheme not in ("http", "https"):
            raise RefusedError("not http(s)")
        host = (url.raw_host or "").rstrip(".")
        if not host or is_disguised(host):
            raise RefusedError("malformed URL")
        try:
            allowed = is_allowed(host, allow_loopback=self._web.allow_loopback)
        except ValueError:
            return  # a name
        if not allowed:
            raise RefusedError("private address")

    def _judge(self, response: ClientResponse) -> None:
        """Refuse what can be known before the body."""
        status, headers = response.status, response.headers
        if status != 200:
            raise RefusedError(
                f"HTTP {status}",
                retryable=status in AGAIN or (status >= 500 and status != NOT_IMPLEMENTED),
                retry_after_s=retry_after_s(headers.get(hdrs.RETRY_AFTER, "")),
            )
        if opted_out(headers.getall("X-Robots-Tag", ()), self._opt_outs, self._agent):
            raise RefusedError("opted out")
        if headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in ("identity", ""):
            raise RefusedError("encoded body")
        if (response.content_length or 0) > self._web.max_bytes:
            raise RefusedError("too many bytes")

    async def _body(self, response: ClientResponse, clock: asyncio.Timeout) -> bytes:
        length = response.content_length
        reserved = length if length is not None else min(self._web.max_bytes, UNKNOWN_BYTES)
        if not self._memory.has_room(reserved):
            await self._wait_for_room(reserved, clock)
        self._memory.take(reserved)
        body = b""
        try:
            chunks, num_bytes = [], 0
            async for chunk in response.content.iter_any():
                num_bytes += len(chunk)
                if num_bytes > self._web.max_bytes:
                    raise RefusedError("too many bytes")
                chunks.append(chunk)
            if not num_bytes:
                raise RefusedError("empty body")
            body = b"".join(chunks)
        finally:
            self._memory.take(len(body) - reserved)
        return body

    async def _wait_for_room(self, num_bytes: int, clock: asyncio.Timeout) -> None:
        """Wait with the clock stopped: it is not the server that is slow."""
        loop = asyncio.get_running_loop()
        left_s = (clock.when() or loop.time()) - loop.time()
        clock.reschedule(None)
        await self._memory.room(num_bytes)
        clock.reschedule(loop.time() + left_s)


def parsed(text: str) -> URL:
    """A URL from a table or a header. Raises RefusedError if it is none."""
    try:
        return URL(text.strip())
    except (ValueError, UnicodeError):
        raise RefusedError("malformed URL") from None


def _refusal(error: Exception) -> RefusedError:
    """What an exception of aiohttp means."""
    if isinstance(error, aiohttp.ClientSSLError):
        return RefusedError("TLS")
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        raise ParamsError(
            "web.concurrency: expected a file for each connection, got 'too many open files'; "
            "lower it or raise 'ulimit -n'"
        )
    match cause:
        case PrivateAddressError():
            return RefusedError("private address")
        case socket.gaierror():
            return RefusedError("name not found", retryable=cause.errno == socket.EAI_AGAIN)
        case ValueError():  # aiohttp.InvalidURL among them
            return RefusedError("malformed URL")
        case aiohttp.ClientPayloadError():
            return RefusedError("truncated body", retryable=True)
        case aiohttp.ClientResponseError():
            return RefusedError("malformed answer")
    return RefusedError("connection failed", retryable=True)
