"""An object store that speaks S3 over HTTP, as slowly and badly as it is told.

    with s3.serve() as store:
        os.environ |= store.environ
        store.make_bucket("clipflow")
        store.fail(0.1, drop=0.02)    # from now on

moto answers, in a process of its own that ends with this one. In front of it, requests that are not signed
with the right keys are refused, and some fail in the ways that real stores do, drawn by a seed. What it
can't prove is how a certain store differs from AWS's, which is the one that moto imitates.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEY, SECRET, REGION = "clipflow", "a-secret-of-tests", "us-east-1"
CONTROL = "/-/faults"
"""GET tells what was asked; PUT changes how it fails. No bucket can have this name."""
CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Faults:
    """Shares of the requests that fail, by kind; the rest is answered."""

    error: float = 0.0
    """Answered with `status`."""
    drop: float = 0.0
    """The connection is closed without a word."""
    lose: float = 0.0
    """The same, after what was asked for was done."""
    truncate: float = 0.0
    """The connection is closed halfway through the answer."""
    status: int = 503
    latency_s: float = 0.0
    methods: tuple[str, ...] = ("DELETE", "GET", "HEAD", "POST", "PUT")
    """Which requests may fail."""

    def draw(self, rng: random.Random, method: str) -> str | None:
        """The kind of failure of a request, if it is to fail."""
        drawn = rng.random()
        for kind in ("error", "drop", "lose", "truncate"):
            drawn -= getattr(self, kind)
            if drawn < 0:
                return kind if method in self.methods else None
        return None


@dataclass(frozen=True)
class Store:
    """A running store, as a test sees it."""

    endpoint: str
    process: subprocess.Popen[str]

    @property
    def environ(self) -> dict[str, str]:
        """What boto3 reads."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> Any:
        """A boto3 client that needs no environment."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
        )

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """The size of every object, by key."""
        pages = self.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=bucket, Prefix=prefix)
        return {entry["Key"]: entry["Size"] for page in found for entry in page.get("Contents", [])}

    def fail(self, error: float = 0.0, status: int = 503, **others: Any) -> None:
        """Fail so large a share of the requests from now on: `Faults` has the kinds."""
        faults = Faults(error=error, status=status, **others)
        body = json.dumps(asdict(faults)).encode()
        with urlopen(Request(self.endpoint + CONTROL, data=body, method="PUT")):
            pass

    def heal(self) -> None:
        """Answer every request."""
        self.fail()

    def go_away(self, seconds: float, *, at: str) -> None:
        """From the next request with this method on close every connection for so long; then as before."""
        body = json.dumps({"away_s": seconds, "at": at}).encode()
        with urlopen(Request(self.endpoint + CONTROL, data=body, method="PUT")):
            pass

    def counts(self) -> dict[str, int]:
        """How many requests came, and how many failed, by kind and by method: `requests`, `drop`, `PUT`."""
        with urlopen(self.endpoint + CONTROL) as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextmanager
def serve(seed: int = 0) -> Iterator[Store]:
    """An empty store on loopback, gone at the end."""
    command = [sys.executable, "-m", "fakes.s3", f"--seed={seed}", "--until-stdin-closes"]
    folder = Path(__file__).parents[1]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        assert process.stdout
        try:
            endpoint = process.stdout.readline().strip()
            assert endpoint, "the object store did not start"
            yield Store(endpoint, process)
        finally:
            process.kill()


@dataclass
class Gate:
    """What stands before moto: access, faults and counts."""

    inside: Wsgi
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._lock = threading.Lock()
        self._away_s, self._away_at, self._away_until = 0.0, "", 0.0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if environ["PATH_INFO"] == CONTROL:
            return self._control(environ, start)
        with self._lock:
            self.counts.update(["requests", method])
            if method == self._away_at:
                self._away_at, self._away_until = "", time.monotonic() + self._away_s
            away = time.monotonic() < self._away_until
            kind = "away" if away else self.faults.draw(self._rng, method)
            self.counts.update([kind] if kind else [])
            faults = self.faults
        time.sleep(faults.latency_s)
        if kind in {"away", "drop"}:
            return _hang_up(environ)
        code = CODES[faults.status] if kind == "error" else _refusal(environ)
        if code:
            # The client is still sending: hear it out, so that it hears us.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status = faults.status if kind == "error" else 403
            return _answer(start, status, f"<Error><Code>{code}</Code></Error>".encode())
        answer = self.inside(environ, start)
        if kind == "lose":
            b"".join(answer)
            return _hang_up(environ)
        if kind == "truncate":
            return _half(b"".join(answer), environ)
        return answer

    def _control(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            if environ["REQUEST_METHOD"] == "PUT":
                asked = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                if "away_s" in asked:
                    self._away_s, self._away_at = asked["away_s"], asked["at"]
                else:
                    self.faults = Faults(**asked)
            return _answer(start, 200, json.dumps(self.counts).encode())


def _answer(start: Callable[..., Any], status: int, body: bytes) -> list[bytes]:
    start(f"{status} -", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def _half(body: bytes, environ: dict[str, Any]) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    _hang_up(environ)


def _refusal(environ: dict[str, Any]) -> str | None:
    """What S3 says to a request that the right keys did not sign."""
    given = environ.get("HTTP_AUTHORIZATION", "")
    if not given.startswith("AWS4-HMAC-SHA256 "):
        return "AccessDenied"
    parts = dict(part.strip().split("=", 1) for part in given.split(" ", 1)[1].split(","))
    if parts["Credential"].split("/")[0] != KEY:
        return "InvalidAccessKeyId"
    headers = {
        name: environ[name.upper().replace("-", "_")]
        if name in {"content-type", "content-length"}
        else environ[f"HTTP_{name.upper().replace('-', '_')}"]
        for name in parts["SignedHeaders"].split(";")
    }
    url = f"http://{environ['HTTP_HOST']}{environ['RAW_URI']}"
    request = AWSRequest(method=environ["REQUEST_METHOD"], url=url, headers=headers)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials(KEY, SECRET), "s3", REGION)
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    right = signer.signature(to_sign, request)
    return None if right == parts["Signature"] else "SignatureDoesNotMatch"


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until-stdin-closes", action="store_true")
    args = parser.parse_args()
    inside = DomainDispatcherApplication(create_backend_app)
    server = make_server(
        "127.0.0.1", args.port, Gate(inside, args.seed), threaded=True, request_handler=Quiet
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.port}", flush=True)
    if args.until_stdin_closes:
        sys.stdin.read()
    else:
        threading.Event().wait()


if __name__ == "__main__":
    main()
