"""Endpoint: what generators share that ask a server which speaks OpenAI's HTTP API.

Address and key come from OPENAI_BASE_URL and OPENAI_API_KEY and go nowhere else.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from itertools import chain
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import Field, model_validator

from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage
from clipflow.rewrite.server import background
from clipflow.rewrite.server.address import URL, Address, from_environment
from clipflow.rewrite.server.client import Client, Limits, NoAnswerError, RefusedError

logger = logging.getLogger(__name__)

COMPLETIONS, CHAT = "/completions", "/chat/completions"
FEWEST_LOST = 8
"""Tasks in a row without an answer that mean that the server is down, or `concurrency` if that is more."""
CHARACTERS_PER_TOKEN = 4
QUOTES = "\"'`\u2018\u2019\u201c\u201d"
NO_ANSWER, REFUSED, CUT_OFF = "no answer", "refused", "cut off"


class Question(NamedTuple):
    """A task as the server is asked."""

    path: str
    body: dict[str, Any]
    """What the path wants beside the params that all requests have."""
    num_characters: int
    """Of the text that the model reads."""
    source: str


class Endpoint(Generator):
    """Asks an OpenAI-compatible server. Texts depend on the model's name, not on the server's address."""

    model: str = Field(min_length=1)
    """The model as the server calls it."""
    max_new_tokens: int = Field(ge=1)
    """Tokens to write at most. What is cut off by this is no rewrite."""
    temperature: float = Field(ge=0)
    """Sampling temperature."""
    top_p: float = Field(gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability."""
    concurrency: int = Field(ge=1)
    """Requests in flight at once."""
    timeout_s: float = Field(gt=0)
    """Seconds that a request may take before it is made again."""
    max_retries: int = Field(ge=0)
    """Further attempts of a request that failed in a way that may pass. The waits double up to a minute."""
    requests_per_minute: float | None = Field(gt=0)
    """No more than this; null: no limit. The limit is the provider's."""
    tokens_per_minute: float | None = Field(gt=0)
    """No more than this, of prompts and `max_new_tokens`, as providers count; null: no limit."""
    max_tokens: int | None = Field(ge=0)
    """Budget of all runs together, tokens read and written; null: none. Raise it to go on."""
    max_dollars: float | None = Field(ge=0)
    """Budget of all runs together by the prices below; null: none."""
    dollars_per_million_read: float = Field(ge=0)
    """The provider's price of a million prompt tokens."""
    dollars_per_million_written: float = Field(ge=0)
    """The provider's price of a million written tokens."""

    not_written: ClassVar[frozenset[str]] = frozenset(
        {
            "concurrency", "timeout_s", "max_retries", "requests_per_minute", "tokens_per_minute",
            "max_tokens", "max_dollars", "dollars_per_million_read", "dollars_per_million_written",
        }
    )  # fmt: skip

    @model_validator(mode="after")
    def _prices_are_known(self) -> Endpoint:
        if self.max_dollars is not None and not self._dollars(Usage(1, 1)):
            raise ValueError("max_dollars needs dollars_per_million_read and _written above 0")
        return self

    @abstractmethod
    def question(self, task: Task) -> Question:
        """How the server is asked for a task."""

    @abstractmethod
    def trial(self) -> Task:
        """A task of our own that any server can answer: what goes wrong with it goes wrong with all."""

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """One proposal per task. Raises GeneratorError if the server can't be used or goes away.

        A run of tasks without an answer is held back until another is answered: if the server is down, they
        are left for the next run.
        """
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        address = from_environment()
        lost: list[Answer] = []
        has_answers = False
        answered = background.results(
            chain([first], tasks), lambda: self._opened(address), self.concurrency
        )
        with closing(answered) as lists:
            for answers in lists:
                ready: list[Answer] = []
                for answer in answers:
                    lost.append(answer)
                    if answer.is_final:
                        ready, lost, has_answers = ready + lost, [], True
                if ready:
                    yield ready
                if len(lost) >= max(FEWEST_LOST, self.concurrency):
                    raise self._is_down(address, len(lost))
        if lost and not has_answers:
            raise self._is_down(address, len(lost))
        if lost:
            yield lost

    def share(self, num_parts: int) -> Self:
        """With its part of the provider's limits, of what may be in flight and of the budget."""
        per_minute = {
            name: limit / num_parts
            for name in ("requests_per_minute", "tokens_per_minute", "max_dollars")
            if (limit := getattr(self, name)) is not None
        }
        tokens = None if self.max_tokens is None else self.max_tokens // num_parts
        concurrency = max(1, self.concurrency // num_parts)
        return self.model_copy(
            update={**per_minute, "max_tokens": tokens, "concurrency": concurrency}
        )

    @property
    def has_budget(self) -> bool:
        """Whether there is a limit of tokens or dollars."""
        return self.max_tokens is not None or self.max_dollars is not None

    def spent(self, usage: Usage) -> str | None:
        """The budget, if this much is more."""
        num_tokens = usage.read + usage.written
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            return f"the next request would make it {num_tokens} tokens of max_tokens {self.max_tokens}"
        dollars = self._dollars(usage)
        if self.max_dollars is not None and dollars > self.max_dollars:
            return f"the next request would make it {dollars:.4f} dollars of max_dollars {self.max_dollars}"
        return None

    def _dollars(self, usage: Usage) -> float:
        return (
            usage.read * self.dollars_per_million_read
            + usage.written * self.dollars_per_million_written
        ) / 1e6

    @asynccontextmanager
    async def _opened(self, address: Address) -> AsyncIterator[Callable[[Task], Awaitable[Answer]]]:
        """A function that answers tasks, from a server that has answered one of ours."""
        limits = Limits(
            self.concurrency, self.timeout_s, self.max_retries,
            self.requests_per_minute, self.tokens_per_minute,
        )  # fmt: skip
        async with Client(address, limits) as client:
            await self._try(client)
            start_s, usage = time.monotonic(), Usage()

            async def answer(task: Task) -> Answer:
                nonlocal usage
                answer = await self._answer(client, task)
                usage += answer.usage
                return answer

            try:
                yield answer
            finally:
                seconds = max(time.monotonic() - start_s, 1e-3)
                retries = [f"{n} after {reason}" for reason, n in client.retries.most_common()]
                logger.info(
                    "%s: %d requests in %.0f s, retried: %s; %.0f tokens/s read, %.0f written",
                    address.shown, client.num_requests, seconds, ", ".join(retries) or "none",
                    usage.read / seconds, usage.written / seconds,
                )  # fmt: skip

    async def _try(self, client: Client) -> None:
        """Returns if the server answers the trial. Raises GeneratorError that says why not."""
        try:
            await self._ask(client, self.trial())
        except NoAnswerError as error:
            raise GeneratorError(
                f"{client.address.shown}: no answer ({error}); check that the server runs and that"
                f" {URL} is its address"
            ) from None
        except RefusedError as error:
            raise GeneratorError(
                f"{client.address.shown}: refuses even a plain caption ({error}); check"
                f" generators.{self.name}, above all model and max_new_tokens"
            ) from None

    async def _answer(self, client: Client, task: Task) -> Answer:
        try:
            return await self._ask(client, task)
        except RefusedError as error:
            logger.debug("refused: %s", error)
            return Answer(task, [Proposal("", self.question(task).source, REFUSED)])
        except NoAnswerError as error:
            logger.debug("no answer: %s", error)
            return Answer(
                task, [Proposal("", self.question(task).source, NO_ANSWER)], is_final=False
            )

    async def _ask(self, client: Client, task: Task) -> Answer:
        question = self.question(task)
        body = {
            "model": self.model,
            **question.body,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": prompts.dealt(task.seed, task.first),
        }
        expected = question.num_characters // CHARACTERS_PER_TOKEN + 1

        def read(answer: Any) -> Answer:
            text, problem = _text(question.path, answer["choices"][0])
            # Half a surrogate pair is JSON, but no text that can be stored.
            text = client.address.redacted(text.encode(errors="replace").decode())
            proposal = Proposal(text, question.source, problem)
            return Answer(task, [proposal], _usage(answer, expected, text))

        return await client.ask(question.path, body, expected + self.max_new_tokens, read)

    def _is_down(self, address: Address, num_lost: int) -> GeneratorError:
        return GeneratorError(
            f"{address.shown}: {num_lost} requests in a row without an answer, each tried"
            f" {self.max_retries + 1} times; what was written is kept: run it again to go on from here"
            " once the server is well"
        )


def _text(path: str, choice: Any) -> tuple[str, str | None]:
    """The rewrite in a choice of the server's answer, or why there is none."""
    if path == CHAT:
        message = choice["message"]
        # Thoughts come first, where the server doesn't take them out; null where nothing else came.
        written = (message["content"] or "").rpartition("</think>")[2].strip()
        line = _unquoted(prompts.parse(written))
        is_refused = bool(message.get("refusal"))
    else:
        written, is_refused = choice["text"], False
        line = prompts.parse(written)
    reason = choice.get("finish_reason")
    if is_refused or reason == "content_filter":
        return "", REFUSED
    return line, CUT_OFF if reason == "length" and "\n" not in written else None


def _unquoted(line: str) -> str:
    """A line without the quotes around all of it."""
    inside = line[1:-1]
    is_quoted = line[:1] in QUOTES and line[-1:] in QUOTES and line[:1] not in inside
    return inside.strip() if len(line) > 1 and is_quoted else line


def _usage(answer: Any, expected: int, text: str) -> Usage:
    """The tokens that the server counted; if it didn't, a guess by the characters."""
    counted = answer.get("usage") or {}
    read, written = counted.get("prompt_tokens"), counted.get("completion_tokens")
    return Usage(
        expected if read is None else int(read),
        len(text) // CHARACTERS_PER_TOKEN + 1 if written is None else int(written),
    )
