"""The server as it is, asked over a socket."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import uvicorn
from PIL import Image

from clipflow.errors import ParamsError
from clipflow.model.pretrained import Pretrained
from clipflow.search import embeddings, images, server, stage
from clipflow.search.index import Index
from clipflow.search.models import Model
from fakes.artifacts import jpeg

Ask = Callable[..., Any]


@pytest.fixture
def ask(clip: Pretrained, photos: Path) -> Iterator[Ask]:
    """`ask("/path?...", body=..., **headers)` -> status, headers, bytes."""
    found = images.find(str(photos))
    side = server.Side(Model("tiny", "a <test>", clip), Index(embeddings.embed(clip, found)))
    app = server.application(server.Searcher(found, [side, side]), only_loopback=True)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    with stage._bound("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        thread = threading.Thread(target=running.run, args=([bound],))
        thread.start()
        while not running.started:
            thread.join(0.01)

        def asked(path: str, body: bytes | None = None, **headers: str) -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            found = SimpleNamespace(
                status=answer.status, headers=answer.headers, data=answer.read()
            )
            connection.close()
            return found

        yield asked
        running.should_exit = True
        thread.join()


def results(answer: Any) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.data
    found: list[dict[str, Any]] = json.loads(answer.data)["models"][0]["results"]
    return found


def test_text(ask: Ask, clip: Pretrained, photos: Path) -> None:
    answer = ask("/search?" + urlencode({"q": "a red square", "k": 3}))
    hits = results(answer)
    found = images.find(str(photos))
    vectors = {
        number: clip.images([clip.preprocess(images.decode(found.data(number)))])[0]
        for number in range(13)
        if found.name(number) not in ("03.jpg", "cut.png")
    }
    query = clip.texts(["a red square"])[0]
    best = sorted(((float(v @ query), n) for n, v in vectors.items()), reverse=True)[:3]
    assert [hit["number"] for hit in hits] == [number for _, number in best]
    assert [hit["cosine"] for hit in hits] == pytest.approx([c for c, _ in best], abs=1e-4)
    assert [hit["name"] for hit in hits] == [found.name(number) for _, number in best]
    first, second = json.loads(answer.data)["models"]
    assert first["results"] == second["results"]


def test_an_upload_finds_itself_and_so_does_a_number(ask: Ask, photos: Path) -> None:
    hits = results(ask("/search?k=2", (photos / "04.png").read_bytes()))
    assert (hits[0]["name"], hits[0]["cosine"]) == ("04.png", 1.0)
    assert results(ask(f"/search?k=2&image={hits[0]['number']}"))[0]["name"] == "04.png"


def test_images_and_thumbnails_are_jpegs(ask: Ask, photos: Path, tmp_path: Path) -> None:
    (hit,) = results(ask("/search?k=1", (photos / "04.png").read_bytes()))
    for url in (hit["image"], hit["thumbnail"]):
        answer = ask("/" + url)
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.headers["x-content-type-options"] == "nosniff"
        (tmp_path / "answer.jpg").write_bytes(answer.data)
        shown = np.asarray(Image.open(tmp_path / "answer.jpg"), dtype=float)
        stored = np.asarray(Image.open(photos / "04.png"), dtype=float)
        assert np.abs(shown - stored).mean() < 16
    assert len(server._jpeg(jpeg(size_px=2000), 360)) < len(server._jpeg(jpeg(size_px=2000), None))


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/search", None, 400, "There is nothing to search for: type a sentence."),
        ("/search?q=%20", None, 400, "There is nothing to search for: type a sentence."),
        ("/search?q=" + "a" * 1001, None, 400, "The text has 1001 characters, more than 1000"),
        ("/search?q=a&k=0", None, 400, "k: Input should be greater than or equal to 1."),
        ("/search?q=a&k=201", None, 400, "k: Input should be less than or equal to 200."),
        ("/search?image=-1", None, 400, "image: Input should be greater than or equal to 0."),
        ("/search?image=99", None, 404, "There is no image 99."),
        ("/image/99", None, 404, "There is no image 99."),
        ("/image/2", None, 404, "There is no image 2."),
        ("/image/notes.txt", None, 400, "number: Input should be a valid integer"),
        ("/image/..%2fnotes.txt", None, 404, "Not Found"),
        ("/search", b"", 400, "The file is empty: choose an image."),
        ("/search", b"GIF89a no", 400, "The file can't be read as an image"),
        ("/search", b"<svg/>", 400, "The file can't be read as an image: no image of a known"),
        ("/search", bytes(20_000_001), 400, "The file is larger than 20 MB: choose a smaller"),
    ],
)
def test_refuses_in_a_sentence(
    ask: Ask, path: str, body: bytes | None, status: int, sentence: str
) -> None:
    answer = ask(path, body)
    assert answer.status == status
    assert json.loads(answer.data)["detail"].startswith(sentence)


def test_only_loopbacks_names_are_answered(ask: Ask) -> None:
    for name in ("127.0.0.1:1", "localhost:8000", "[::1]:8000"):
        assert ask("/healthz", Host=name).status == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000"):
        for path in ("/", "/healthz", "/search?q=a", "/image/0"):
            answer = ask(path, Host=name)
            assert (answer.status, answer.data) == (400, b"Invalid host header")


def test_the_page_asks_nobody_else(ask: Ask) -> None:
    answer = ask("/?q=anything")
    html, policy = answer.data.decode(), answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "http" not in html
    assert "a &lt;test&gt;" in html


def test_a_port_in_use_is_known_before_anything_is_loaded() -> None:
    with stage._bound("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(ParamsError, match=f"--port {port}: it can't be had .*in use"):
            stage.run(model="no such", location="no such", port=port)
    with pytest.raises(ParamsError, match=r"--host no\.such\.host\.invalid --port 1: it can't"):
        stage.run(model="no such", location="no such", host="no.such.host.invalid", port=1)
