"""The page and its JSON, over HTTP.

GET  /               the page; with `?q=TEXT` or `?image=N` it shows what that finds
GET  /search         `?q=TEXT&k=24` or `?image=N`: the nearest images, as JSON
POST /search         the same for the image file that is the body
GET  /image/N        an indexed image as JPEG; `?thumbnail=1` of THUMBNAIL_PX at most
GET  /healthz        200 as soon as it answers

What is wrong with a request is a sentence in `{"detail": ...}`, with status 400, or 404 for an image.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from jaxtyping import Float32
from starlette.middleware.trustedhost import TrustedHostMiddleware

from clipflow import page
from clipflow.search.images import Images, UnreadableError, decode
from clipflow.search.index import Index
from clipflow.search.models import Model

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MAX_UPLOAD_BYTES = 20_000_000
MAX_CHARACTERS = 1000
MAX_RESULTS = 200
THUMBNAIL_PX = 360
NUM_SAMPLES = 12
"""Images on the page before a search."""
A_YEAR = "private, max-age=31536000, immutable"

Number = Annotated[int, Query(ge=0)]
Count = Annotated[int, Query(ge=1, le=MAX_RESULTS)]


@dataclass(frozen=True)
class Side:
    """A model and the images as it sees them."""

    model: Model
    index: Index


class Searcher:
    """One or two models over the same images."""

    def __init__(self, images: Images, sides: list[Side]) -> None:
        self.images, self.sides = images, sides
        self._lock = Lock()  # tokenizers don't take two threads, and a model uses all cores anyway

    def by_text(self, text: str, k: int) -> dict[str, Any]:
        """What each model finds for a text, ready for JSON."""
        return self._search(lambda side: side.model.clip.texts([text])[0].numpy(), k)

    def by_upload(self, data: bytes, k: int) -> dict[str, Any]:
        """What each model finds for an image file. Raises UnreadableError."""
        image = decode(data)

        def embed(side: Side) -> Float32[np.ndarray, " dim"]:
            clip = side.model.clip
            vector: Float32[np.ndarray, " dim"] = clip.images([clip.preprocess(image)])[0].numpy()
            return vector

        return self._search(embed, k)

    def by_number(self, number: int, k: int) -> dict[str, Any]:
        """What each model finds for one of the images, which must be indexed."""
        return self._search(lambda side: side.index.vector(number), k)

    def has(self, number: int) -> bool:
        """Whether an image is indexed."""
        return self.sides[0].index.vector(number) is not None

    def samples(self) -> list[dict[str, Any]]:
        """Some of the images, evenly from first to last."""
        numbers = self.sides[0].index.numbers
        rows = np.linspace(0, len(numbers) - 1, min(NUM_SAMPLES, len(numbers))).astype(int)
        return [self.describe(int(number)) for number in numbers[rows]]

    def describe(self, number: int) -> dict[str, Any]:
        """An image as the page shows it; its address changes with the images, so it may be cached."""
        url = f"image/{number}?of={self.images.digest[:8]}"
        return {
            "number": number,
            "name": self.images.name(number),
            "caption": self.images.caption(number),
            "image": url,
            "thumbnail": f"{url}&thumbnail=1",
        }

    def _search(self, embed: Callable[[Side], Any], k: int) -> dict[str, Any]:
        found = []
        for side in self.sides:
            begun = time.perf_counter()
            with self._lock:
                vector = embed(side)
            embedded = time.perf_counter()
            hits = side.index.nearest(vector, k)
            searched = time.perf_counter()
            found.append(
                {
                    "model": side.model.name,
                    "embed_ms": round(1e3 * (embedded - begun), 2),
                    "mean_cosine": round(float(side.index.mean @ vector), 4),
                    "search_ms": round(1e3 * (searched - embedded), 2),
                    "results": [
                        {**self.describe(hit.number), "cosine": round(hit.cosine, 4)}
                        for hit in hits
                    ],
                }
            )
        return {"num_images": len(self.sides[0].index), "models": found}


def application(searcher: Searcher, *, only_loopback: bool) -> FastAPI:
    """The server. With `only_loopback` it answers to no other name, so that no web page can read it under
    a name that it has pointed here (DNS rebinding).
    """
    app = FastAPI(title="clipflow search", docs_url=None, redoc_url=None, openapi_url=None)
    html, policy = _page(searcher)
    if only_loopback:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK, www_redirect=False)

    @app.middleware("http")
    async def guarded(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}."}, 400)

    @app.get("/")
    def home() -> HTMLResponse:
        return HTMLResponse(html)

    @app.get("/favicon.ico", status_code=204)
    def favicon() -> None:  # browsers ask for it
        return None

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/search")
    def search(q: str = "", image: Number | None = None, k: Count = 24) -> dict[str, Any]:
        if image is not None:
            _known(searcher, image)
            return searcher.by_number(image, k)
        text = q.strip()
        if not text:
            raise HTTPException(400, "There is nothing to search for: type a sentence.")
        if len(text) > MAX_CHARACTERS:
            raise HTTPException(
                400, f"The text has {len(text)} characters, more than {MAX_CHARACTERS}: shorten it."
            )
        return searcher.by_text(text, k)

    @app.post("/search")
    async def search_by_upload(request: Request, k: Count = 24) -> dict[str, Any]:
        data = await _body(request)
        try:
            return await run_in_threadpool(searcher.by_upload, data, k)
        except UnreadableError as error:
            raise HTTPException(400, f"The file can't be read as an image: {error}.") from None

    @app.get("/image/{number}")
    def image(number: int, thumbnail: bool = False) -> Response:
        _known(searcher, number)
        try:
            jpeg = _jpeg(searcher.images.data(number), THUMBNAIL_PX if thumbnail else None)
        except (OSError, UnreadableError) as error:
            raise HTTPException(404, f"Image {number} can't be read any more: {error}.") from None
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": A_YEAR})

    return app


def _known(searcher: Searcher, number: int) -> None:
    if not searcher.has(number):
        raise HTTPException(404, f"There is no image {number}.")


async def _body(request: Request) -> bytes:
    """The body, read no further than it may be long."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_UPLOAD_BYTES:
            limit = MAX_UPLOAD_BYTES // 10**6
            raise HTTPException(400, f"The file is larger than {limit} MB: choose a smaller one.")
    if not data:
        raise HTTPException(400, "The file is empty: choose an image.")
    return bytes(data)


def _jpeg(data: bytes, side_px: int | None) -> bytes:
    image = decode(data)
    if side_px:
        image.thumbnail((side_px, side_px))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85 if side_px else 95)
    return out.getvalue()


def _page(searcher: Searcher) -> tuple[str, str]:
    """The page, which is the same for every query, and the policy that allows its own style and script."""
    template = page.environment(Path(__file__).parent).get_template("page.html")
    html = template.render(
        where=searcher.images.where,
        num_images=len(searcher.sides[0].index),
        models=[{"name": side.model.name, "about": side.model.about} for side in searcher.sides],
        samples=searcher.samples(),
        max_characters=MAX_CHARACTERS,
        max_results=MAX_RESULTS,
        max_upload_bytes=MAX_UPLOAD_BYTES,
    )
    allowed: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in re.findall(r"<(style|script)>(.*?)</\1>", html, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; style-src {' '.join(allowed['style'])};"
        f" script-src {' '.join(allowed['script'])}; img-src 'self' blob:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return html, policy
