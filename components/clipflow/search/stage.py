"""Load the models, embed the images, serve the page."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack
from ipaddress import ip_address

import uvicorn

from clipflow.errors import ParamsError
from clipflow.search import embeddings, images, models
from clipflow.search.index import Index
from clipflow.search.server import Searcher, Side, application

logger = logging.getLogger(__name__)


def run(
    *,
    model: str,
    location: str,
    beside: str | None = None,
    pretrained: str | None = None,
    beside_pretrained: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 64,
) -> None:
    """Serve until interrupted; port 0 is one that is free. The address is logged once it answers.

    Raises ParamsError if the address can't be had, else what loading and embedding raise.
    """
    with _bound(host, port) as bound:
        found = images.find(location)
        named = [(model, pretrained, "--model")]
        if beside is not None:
            named.append((beside, beside_pretrained, "--beside"))
        sides = []
        for name, weights, option in named:
            loaded = models.load(name, weights, batch_size=batch_size, option=option)
            sides.append(Side(loaded, Index(embeddings.embed(loaded.clip, found))))
        serve(Searcher(found, sides), bound)


def serve(searcher: Searcher, bound: socket.socket) -> None:
    """Answer on a bound socket until interrupted."""
    host, port = bound.getsockname()[:2]
    only_loopback = ip_address(host).is_loopback
    if not only_loopback:
        logger.warning(
            "%s: whoever reaches this machine can see the images; there is no login", host
        )
    name = f"[{host}]" if ":" in host else host
    logger.info("%d images at http://%s:%d", len(searcher.sides[0].index), name, port)
    app = application(searcher, only_loopback=only_loopback)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run([bound])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the address, before anything is loaded, but takes no connections yet."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with ExitStack() as undone:
            found = undone.enter_context(socket.socket(family, socket.SOCK_STREAM))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
            undone.pop_all()
            return found
    except OSError as error:
        raise ParamsError(
            f"--host {host} --port {port}: it can't be had ({error.strerror}); pass another,"
            " --port 0 takes one that is free"
        ) from None
