"""A server that speaks OpenAI's HTTP API and writes without a model, as slowly and badly as it is told.

    PYTHONPATH=tests python -m fakes.llm_server --port 8000 --latency-s 0.2 --capacity 64 --error 0.05

It answers `/v1/completions` and `/v1/chat/completions` with a text that follows from the request alone,
`capacity` of them at a time, each after a latency. Some requests fail in the ways that real servers do,
drawn by a seed, or as a test scripts them. `GET /stats` tells what it has seen. What it can't prove is that
a model understands the prompts: `tests/e2e/test_llm_server.py` asks a real server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

JSON = {"Content-Type": "application/json"}


@dataclass
class Request:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any
    at_s: float
    """On the loop's clock."""


@dataclass
class Reply:
    """What goes back: a status with a body, some of it, or nothing."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None
    """`drop` closes without a word, `truncate` halfway through the body, `stall` says nothing for long."""


@dataclass
class Faults:
    """Shares of the requests that fail, by kind; the rest is answered."""

    error: float = 0.0
    """Status 500."""
    busy: float = 0.0
    """Status 429 with Retry-After."""
    stall: float = 0.0
    truncate: float = 0.0
    malform: float = 0.0
    """Status 200 with a body that is no JSON."""
    drop: float = 0.0

    def draw(self, rng: random.Random, retry_after: str) -> Reply | None:
        """The failure of a request, if it is to fail."""
        replies = {
            "error": Reply(500, b'{"error": {"message": "drawn by the fake"}}'),
            "busy": Reply(429, headers={"Retry-After": retry_after}),
            "stall": Reply(fault="stall"),
            "truncate": Reply(fault="truncate"),
            "malform": Reply(200, b'{"choices": [{"text": " a pict'),
            "drop": Reply(fault="drop"),
        }
        drawn = rng.random()
        for kind, reply in replies.items():
            drawn -= getattr(self, kind)
            if drawn < 0:
                return reply
        return None


@dataclass
class LlmServer:
    """The server's knobs and what it has seen."""

    latency_s: float = 0.0
    capacity: int = 1000
    """Requests worked on at once; the others wait."""
    faults: Faults = field(default_factory=Faults)
    retry_after: str = "0"
    stall_s: float = 60.0
    seed: int = 0
    knows_usage: bool = True
    keeps_requests: bool = True
    script: list[Reply] = field(default_factory=list)
    """Replies to the next requests, in their order, before anything is drawn."""
    requests: list[Request] = field(default_factory=list)
    num_requests: int = 0
    num_answered: int = 0
    num_active: int = 0
    max_active: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """What OPENAI_BASE_URL is to be."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0) -> asyncio.Server:
        """Listen on loopback; port 0 takes any that is free."""
        self._rng = random.Random(self.seed)
        self._capacity = asyncio.Semaphore(self.capacity)
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept for many requests."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await _read(reader)
                if request.path.endswith("/stats"):
                    _write(writer, Reply(body=json.dumps(self._stats()).encode()))
                    continue
                self.num_requests += 1
                if self.keeps_requests:
                    self.requests.append(request)
                self.num_active += 1
                self.max_active = max(self.max_active, self.num_active)
                try:
                    reply = await self._reply(request)
                finally:
                    self.num_active -= 1
                self.num_answered += reply.status == 200 and reply.fault is None
                if not _write(writer, reply):
                    break
        writer.close()

    async def _reply(self, request: Request) -> Reply:
        async with self._capacity:
            await asyncio.sleep(self.latency_s)
            scripted = self.script.pop(0) if self.script else None
            failure = scripted or self.faults.draw(self._rng, self.retry_after)
            if failure and failure.fault == "stall":
                await asyncio.sleep(self.stall_s)
            if failure and failure.fault != "truncate":
                return failure
            body = self._answer(request)
            if body is None:
                return Reply(404, b'{"error": {"message": "no such path"}}')
            return Reply(body=body, fault=failure and failure.fault)

    def _answer(self, request: Request) -> bytes | None:
        asked = request.body
        if request.path.endswith("/chat/completions"):
            text = write(content_text(asked["messages"][-1]["content"]), asked)
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        elif request.path.endswith("/completions"):
            last = asked["prompt"].rpartition("\n")[2].removesuffix(" =>")
            choice = {"text": f" {write(last, asked)}\nanother => one".partition(asked["stop"])[0]}
        else:
            return None
        answer = {"choices": [{"index": 0, "finish_reason": "stop", **choice}]}
        if self.knows_usage:
            answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return json.dumps(answer).encode()

    def _stats(self) -> dict[str, int]:
        names = ("num_requests", "num_answered", "num_active", "max_active")
        return {name: getattr(self, name) for name in names}


def write(caption: str, asked: dict[str, Any]) -> str:
    """The rewrite: it holds the caption's words and differs with the seed."""
    number = zlib.crc32(f"{asked.get('seed')} {caption}".encode()) % 10_000
    return f"picture number {number} of {caption}"


def content_text(content: Any) -> str:
    """A chat message's text; of an image, its checksum."""
    if isinstance(content, str):
        return content
    images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return f"image {zlib.crc32(''.join(images).encode())}"


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    path = head[0].split(" ")[1]
    now = asyncio.get_running_loop().time()
    return Request(path, headers, json.loads(body) if body else None, now)


def _write(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Send a reply; False if the connection is to end."""
    if reply.fault in ("drop", "stall"):
        return False
    headers = {**JSON, "Content-Length": str(len(reply.body)), **reply.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = reply.body[: len(reply.body) // 2] if reply.fault == "truncate" else reply.body
    writer.write(f"HTTP/1.1 {reply.status} Fake\r\n{lines}\r\n".encode() + body)
    return reply.fault is None


@contextmanager
def serving(server: LlmServer) -> Iterator[LlmServer]:
    """Serve from a thread of this process."""
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def until_stopped() -> None:
        listening = await server.start()
        started.set()
        try:
            await listening.serve_forever()
        except asyncio.CancelledError:
            listening.close()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(until_stopped())

    thread = threading.Thread(target=work, name="fake llm server")
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(_stop, loop)
        thread.join(10)
        assert not thread.is_alive()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def main() -> None:
    """Serve until killed; the first line on standard output is the URL."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--capacity", type=int, default=1000)
    parser.add_argument("--stall-s", type=float, default=60.0)
    parser.add_argument("--retry-after", default="0")
    parser.add_argument("--seed", type=int, default=0)
    kinds = tuple(Faults.__dataclass_fields__)
    for kind in kinds:
        parser.add_argument(f"--{kind}", type=float, default=0.0, metavar="SHARE")
    args = parser.parse_args()
    server = LlmServer(
        latency_s=args.latency_s, capacity=args.capacity, stall_s=args.stall_s, seed=args.seed,
        retry_after=args.retry_after, keeps_requests=False,
        faults=Faults(**{kind: getattr(args, kind) for kind in kinds}),
    )  # fmt: skip

    async def forever() -> None:
        listening = await server.start(args.port)
        print(server.url, flush=True)
        await listening.serve_forever()

    with suppress(KeyboardInterrupt):
        asyncio.run(forever())


if __name__ == "__main__":
    main()
