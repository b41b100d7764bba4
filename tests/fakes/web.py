"""A web server as good and as hostile as the web: what it does follows from the path.

    PYTHONPATH=tests python -m fakes.web --port 8000 --dead 0.05 --slow 0.01

It speaks HTTP by hand, so that it can lie. `Web.url` makes a URL of a path:

    /image/<n>                a JPEG of exactly n bytes
    /img/<n>.jpg              one of many JPEGs of realistic size; a share of all n is dead, a share slow
    /status/<code>            that status, always
    /flaky/<code>/<times>/<id>?retry_after=<s>    that status so many times, then an image
    /redirect/<n>             n redirects, then an image; /loop redirects to itself
    /to?<url>                 a redirect to that URL as it stands
    /robots?<header>          an image with that X-Robots-Tag, several separated by `|`
    /drip /endless /chunks    a byte now and then; bytes without end; bytes without end and without length
    /short /long              fewer or more bytes than Content-Length says
    /bomb /flood /line        gzip of nothing but zeros; a thousand headers; a header of a megabyte
    /silent /reset /garbage   no answer; a connection that breaks; an answer that is no HTTP
    /html /empty /cookie      a page; a body of no bytes; an image with a cookie
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import io
import random
import ssl
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from PIL import Image

NUM_PICTURES = 64
STARTED_S = 10.0


@dataclass
class Request:
    """One request as it arrived; header names are in lower case."""

    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        return unquote(urlsplit(self.target).query)


@dataclass
class Web:
    """The server's knobs and what it has seen."""

    pictures: list[bytes] = field(default_factory=list)
    """What `/img/` serves, each with n written into it."""
    dead: float = 0.0
    """Share of `/img/` that is 404, or 500, or a page: the same ones each time."""
    slow: float = 0.0
    """Share of `/img/` that takes `slow_s`."""
    slow_s: float = 5.0
    drip_s: float = 0.05
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by path."""
    requests: list[Request] = field(default_factory=list)
    keeps_requests: bool = True
    num_connections: int = 0
    num_active: int = 0
    max_active: int = 0
    port: int = 0
    scheme: str = "http"

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> asyncio.Server:
        """Listen on loopback; port 0 takes any that is free."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        self.scheme = "https" if tls else "http"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept for many requests."""
        self.num_connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await _read(reader)
                self.counts[request.path] += 1
                if self.keeps_requests:
                    self.requests.append(request)
                self.num_active += 1
                self.max_active = max(self.max_active, self.num_active)
                try:
                    async for data in self._answer(request):
                        writer.write(data)
                        await writer.drain()
                finally:
                    self.num_active -= 1
                if request.path in BREAKING:
                    break
        if writer.get_extra_info("sslcontext") is None:
            writer.close()
        else:
            writer.transport.abort()

    async def _answer(self, request: Request) -> AsyncIterator[bytes]:
        """The bytes that go back."""
        kind, *rest = request.path.strip("/").split("/")
        match kind, rest:
            case "img", [name]:
                yield await self._picture(int(name.removesuffix(".jpg")))
            case "image", [num_bytes]:
                yield reply(body=image(int(num_bytes)))
            case "status", [status]:
                yield reply(int(status))
            case "flaky", [status, times, _]:
                good = self.counts[request.path] > int(times)
                wait = parse_qs(request.query).get("retry_after", [""])[0]
                yield reply() if good else reply(int(status), b"", {"Retry-After": wait})
            case "redirect", [num]:
                after = f"/redirect/{int(num) - 1}" if int(num) > 1 else "/image/1000"
                yield reply(302, b"", {"Location": after})
            case "loop", _:
                yield reply(301, b"", {"Location": "/loop"})
            case "to", _:
                yield reply(307, b"", {"Location": request.query})
            case "robots", _:
                tags = [("X-Robots-Tag", tag) for tag in request.query.split("|")]
                yield reply(headers=tags)
            case _:
                async for data in getattr(self, f"_{kind}", self._unknown)():
                    yield data

    async def _picture(self, number: int) -> bytes:
        drawn = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "big") / 2**64
        if drawn < self.dead:
            return (reply(404), reply(500), reply(body=b"<html>for sale</html>"))[number % 3]
        if drawn < self.dead + self.slow:
            await asyncio.sleep(self.slow_s)
        return reply(body=numbered(self.pictures[number % len(self.pictures)], number))

    async def _drip(self) -> AsyncIterator[bytes]:
        yield head(200, {"Content-Length": "100000"})
        while True:
            yield b"x"
            await asyncio.sleep(self.drip_s)

    async def _endless(self) -> AsyncIterator[bytes]:
        yield head(200, {"Connection": "close"})
        while True:
            yield bytes(65536)

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield head(200, {"Transfer-Encoding": "chunked"})
        while True:
            yield b"10000\r\n" + bytes(65536) + b"\r\n"

    async def _short(self) -> AsyncIterator[bytes]:
        yield head(200, {"Content-Length": "2000"}) + image(1000)

    async def _long(self) -> AsyncIterator[bytes]:
        yield head(200, {"Content-Length": "1000"}) + image(1000) + reply(body=b"smuggled")

    async def _bomb(self) -> AsyncIterator[bytes]:
        yield reply(body=gzip.compress(bytes(10**7)), headers={"Content-Encoding": "gzip"})

    async def _flood(self) -> AsyncIterator[bytes]:
        yield reply(headers=[(f"X-{number}", "y") for number in range(1000)])

    async def _line(self) -> AsyncIterator[bytes]:
        yield reply(headers={"X-Long": "y" * 10**6})

    async def _silent(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    async def _reset(self) -> AsyncIterator[bytes]:
        yield b""

    async def _garbage(self) -> AsyncIterator[bytes]:
        yield b"220 mail.example.org ESMTP\r\n\r\n"

    async def _html(self) -> AsyncIterator[bytes]:
        yield reply(body=b"<html>this domain is for sale</html>")

    async def _empty(self) -> AsyncIterator[bytes]:
        yield reply(body=b"")

    async def _cookie(self) -> AsyncIterator[bytes]:
        yield reply(headers={"Set-Cookie": "id=1; Path=/"})

    async def _unknown(self) -> AsyncIterator[bytes]:
        yield reply(404)


BREAKING = {"/short", "/reset", "/garbage"}
"""The connection ends after these."""


def image(num_bytes: int = 1000) -> bytes:
    """A JPEG of exactly so many bytes; what is missing follows its end, as decoders allow."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(out, "JPEG")
    return out.getvalue().ljust(num_bytes, b"\0")


def pictures(num: int = NUM_PICTURES, seed: int = 0) -> list[bytes]:
    """Different JPEGs of sizes in bytes and pixels like the web's: 40 kB on average."""
    rng, drawn = np.random.default_rng(seed), list[bytes]()
    for _ in range(num):
        width, height = rng.integers(320, 800, 2)
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (int(height), int(width), 1))
        out = io.BytesIO()
        noisy = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(out, "JPEG", quality=int(rng.integers(55, 80)))
        drawn.append(out.getvalue())
    return drawn


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same picture with a number in a comment, so that no two files are alike."""
    comment = str(number).encode()
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def head(status: int, headers: dict[str, str] | list[tuple[str, str]]) -> bytes:
    pairs = headers.items() if isinstance(headers, dict) else headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return f"HTTP/1.1 {status} Fake\r\n{lines}\r\n".encode()


def reply(
    status: int = 200,
    body: bytes | None = None,
    headers: dict[str, str] | list[tuple[str, str]] = (),  # type: ignore[assignment]
) -> bytes:
    body = image() if body is None else body
    if status == 204:
        return head(status, headers)
    length = ("Content-Length", str(len(body)))
    return (
        head(status, [length, *(headers.items() if isinstance(headers, dict) else headers)]) + body
    )


def self_signed() -> ssl.SSLContext:
    """TLS for 127.0.0.1 by a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with NamedTemporaryFile() as file:
        file.write(certificate.public_bytes(Encoding.PEM))
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        context.load_cert_chain(file.name)
    return context


async def _read(reader: asyncio.StreamReader) -> Request:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines[1:] if line)
    return Request(lines[0].split(" ")[1], {name.lower(): value for name, value in pairs})


@contextmanager
def serving(web: Web | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """Serve from a thread of this process."""
    web = web or Web()
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def until_stopped() -> None:
        listening = await web.start(tls=tls)
        started.set()
        try:
            await listening.serve_forever()
        except asyncio.CancelledError:
            listening.close()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(until_stopped())

    def stop() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    thread = threading.Thread(target=work, name="fake web")
    thread.start()
    assert started.wait(STARTED_S)
    try:
        yield web
    finally:
        loop.call_soon_threadsafe(stop)
        thread.join(STARTED_S)
        assert not thread.is_alive()


def main() -> None:
    """Serve until killed; the first line on standard output is where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--images", type=Path, help="serve the JPEGs of this folder as /img/<n>.jpg"
    )
    parser.add_argument("--dead", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--slow", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--slow-s", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    files = [path.read_bytes() for path in sorted(args.images.glob("*.jpg"))] if args.images else []
    web = Web(pictures=files or pictures(seed=args.seed), dead=args.dead, slow=args.slow,
              slow_s=args.slow_s, keeps_requests=False)  # fmt: skip

    async def forever() -> None:
        listening = await web.start(args.port)
        print(web.url(""), flush=True)
        await listening.serve_forever()

    with suppress(KeyboardInterrupt):
        asyncio.run(forever())


if __name__ == "__main__":
    main()
