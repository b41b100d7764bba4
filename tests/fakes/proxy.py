"""A proxy in front of an HTTP server, which fails some requests as networks do.

    with proxy.serve("http://localhost:5000", fault) as url:

`fault` is asked for every request, by method and path, and says how it fails, if it does: `error` is
answered with 503; `drop` closes the connection without a word; `lose` the same, after the server did what
was asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[[str, str], str | None]


@contextmanager
def serve(upstream: str, fault: Fault) -> Iterator[str]:
    """The proxy's address. It passes the Host header of the server on."""
    target = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = fault(self.command, urlsplit(self.path).path)
            if kind == "drop":
                self.close_connection = True
            elif kind == "error":
                self.reply(503, [], b"busy")
            else:
                connection = HTTPConnection(target, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                status, contents = answer.status, answer.read()
                connection.close()
                if kind == "lose":
                    self.close_connection = True
                else:
                    self.reply(status, answer.getheaders(), contents)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
