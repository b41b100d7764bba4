"""The client of a language model server: limits, retries and what went wrong, for many requests at once.

It speaks OpenAI's HTTP API. aiohttp rather than httpx2: 0.2 ms of processor time per request against 0.85.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from clipflow.errors import GeneratorError
from clipflow.rewrite.server.address import KEY, URL, Address

logger = logging.getLogger(__name__)

R = TypeVar("R")

CONNECT_S = 5.0
FIRST_CONNECTIONS = 3
"""Attempts to reach a server that never answered yet."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
"""The longest that the second attempt waits, doubled with each until the longest of all."""
LONGEST_RETRY_AFTER_S = 3600.0
WINDOW_S = 1.0
"""Limits per minute hold within every second, so that no minute sees a burst and a minute's worth."""
NO_CONNECTION = "no connection"
AGAIN = (408, 409, 425, 429)
REFUSED = (400, 413, 422)
HINTS = {
    401: f"set {KEY} to a key that it knows",
    403: f"check that the key in {KEY} may use this model",
    404: f"check the generator's model, and that {URL} ends as the server wants it, mostly in /v1",
}
WRONG_FORM = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)


class NoAnswerError(Exception):
    """The request failed in a way that may pass."""

    def __init__(self, reason: str, detail: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(reason + (f": {detail}" if detail else ""))
        self.reason, self.retry_after_s = reason, retry_after_s


class RefusedError(Exception):
    """The server won't answer this request, however often it is asked."""


@dataclass(frozen=True)
class Limits:
    """What the client keeps to."""

    concurrency: int
    timeout_s: float
    max_retries: int
    requests_per_minute: float | None
    tokens_per_minute: float | None


class Client:
    """Asks one server. To be entered and used in one event loop."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.num_requests = 0
        self.retries: Counter[str] = Counter()
        self._limits = limits
        self._has_answered = False
        self._not_before_s = 0.0
        self._requests = _limiter(limits.requests_per_minute)
        self._tokens = _limiter(limits.tokens_per_minute)
        self._backoff = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(NoAnswerError),
            wait=lambda state: self._backoff(state) + _lost(state).retry_after_s,
            stop=self._is_hopeless,
            before_sleep=self._count,
            reraise=True,
        )

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limits.concurrency),
            timeout=aiohttp.ClientTimeout(total=self._limits.timeout_s, sock_connect=CONNECT_S),
            headers=self.address.headers,
            proxy=self.address.proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(
        self, path: str, body: Mapping[str, Any], num_tokens: int, read: Callable[[Any], R]
    ) -> R:
        """What `read` makes of the answer's JSON; if it can't, the request is made again.

        `num_tokens` is what counts against the tokens per minute. Raises NoAnswerError once the retries are
        used up, RefusedError if the server refuses this very request, and GeneratorError if it would refuse
        any.
        """
        content = json.dumps(body).encode()
        # A copy, because tenacity keeps the state of a call in the object.
        return await self._retrying.copy()(self._once, path, content, num_tokens, read)

    async def _once(
        self, path: str, content: bytes, num_tokens: int, read: Callable[[Any], R]
    ) -> R:
        await self._permit(num_tokens)
        self.num_requests += 1
        url = self.address.url(path)
        try:
            async with self._session.post(url, data=content, allow_redirects=False) as response:
                self._has_answered = True
                text = await response.text(errors="replace")
        except TimeoutError:
            raise NoAnswerError("timeout") from None
        except aiohttp.ClientConnectorError as error:
            raise NoAnswerError(NO_CONNECTION, self._one_line(str(error))) from None
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswerError("connection lost", self._one_line(str(error))) from None
        if response.status != 200:
            raise self._failure(response.status, response.headers, text)
        try:
            return read(json.loads(text))
        except WRONG_FORM:
            raise NoAnswerError("malformed answer", self._one_line(text)) from None

    async def _permit(self, num_tokens: int) -> None:
        """Wait until the limits and the server's own wish allow another request."""
        if self._requests:
            await self._requests.acquire()
        missing = float(num_tokens)
        while self._tokens and missing > 0:
            part = min(missing, self._tokens.max_rate)
            await self._tokens.acquire(part)
            missing -= part
        while (wait_s := self._not_before_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)

    def _failure(self, status: int, headers: Mapping[str, str], text: str) -> Exception:
        message = self._one_line(_message(text))
        if status in AGAIN or status >= 500:
            wait_s = min(retry_after_s(headers.get("Retry-After", "")), LONGEST_RETRY_AFTER_S)
            self._not_before_s = max(self._not_before_s, time.monotonic() + wait_s)
            return NoAnswerError(f"status {status}", message, wait_s)
        if status in REFUSED:
            return RefusedError(f"status {status}: {message}")
        hint = HINTS.get(status, f"check {URL}")
        return GeneratorError(
            f"{self.address.shown}: expected an answer, got status {status} ({message}); {hint}"
        )

    def _is_hopeless(self, state: RetryCallState) -> bool:
        """Whether to give up: after the retries, or sooner if there seems to be no server."""
        num_attempts = self._limits.max_retries + 1
        if not self._has_answered and _lost(state).reason == NO_CONNECTION:
            num_attempts = min(num_attempts, FIRST_CONNECTIONS)
        return state.attempt_number >= num_attempts

    def _count(self, state: RetryCallState) -> None:
        self.retries[_lost(state).reason] += 1

    def _one_line(self, text: str) -> str:
        return " ".join(self.address.redacted(text).split())[:200]


def retry_after_s(header: str) -> float:
    """Seconds to wait by a Retry-After header: a number or a date; 0 if there is none or it is past."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def _lost(state: RetryCallState) -> NoAnswerError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, NoAnswerError)
    return error


def _limiter(per_minute: float | None) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    window_s = max(WINDOW_S, 60 / per_minute)
    return AsyncLimiter(per_minute * window_s / 60, window_s)


def _message(text: str) -> str:
    """What a server says about its failure: in OpenAI's form, in others, or as it is."""
    try:
        answer = json.loads(text)
        error = answer.get("error") or answer.get("detail") or answer.get("message")
        return str(error["message"] if isinstance(error, dict) else error or text)
    except WRONG_FORM:
        return text
