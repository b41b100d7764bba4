"""`clipflow search` as a process, and its page in a browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from fakes.artifacts import make_pairs
from fakes.checkpoint import make_weights

CAPTIONS = {f"k{n}": f"<b>caption</b> {n}" for n in range(30)}
START_S = 120


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two random models over thirty pairs."""
    place = tmp_path_factory.mktemp("search")
    pairs = make_pairs(place / "pairs", CAPTIONS)
    one, other = (make_weights(place / name, seed) for seed, name in enumerate(("one", "other")))
    command = [sys.executable, "-m", "clipflow", "search", "--port", "0", "--images", str(pairs)]
    with subprocess.Popen(
        [*command, "--model", str(one), "--beside", str(other)],
        env={**os.environ, "CLIPFLOW_SCRATCH": str(place / "scratch")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"30 images at (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            raise AssertionError("".join(said))
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)


@pytest.fixture(scope="module")
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("the page was not looked at: none of " + ", ".join(names) + " is on PATH")
    return found


def dom(browser: str, url: str, profile: Path) -> str:
    """The page's elements after its script has run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    done = subprocess.run(
        [browser, *flags, "--virtual-time-budget=10000", f"--user-data-dir={profile}", url],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=True,
    )
    return done.stdout


def test_an_address_with_a_query_shows_what_it_finds(
    address: str, browser: str, tmp_path: Path
) -> None:
    html = dom(browser, f"{address}/?q=a+red+square", tmp_path)
    assert re.search(r"The nearest 24 of 30, in [\d.]+ ms; the models have \d+ of their 24", html)
    one, other = re.findall(r'<ol class="found">(.*?)</ol>', html, re.DOTALL)[:2]
    for side in (one, other):
        assert side.count("<li") == 24
        cosines = [float(c) for c in re.findall(r"<b>(-?\d\.\d\d)</b>", side)]
        assert cosines == sorted(cosines, reverse=True)
        assert len(cosines) == 24
        shown = set(map(unescape, re.findall(r'<span class="caption">(.*?)</span>', side)))
        assert len(shown) == 24
        assert shown <= set(CAPTIONS.values())
    assert one != other
    assert html.count('class="alone"') >= 2
    assert "<b>caption</b>" not in html


def test_an_image_finds_itself_first(address: str, browser: str, tmp_path: Path) -> None:
    html = dom(browser, f"{address}/?image=7", tmp_path)
    for side in re.findall(r'<ol class="found">(.*?)</ol>', html, re.DOTALL)[:2]:
        first = side.split("</li>")[0]
        assert "<b>1.00</b>" in first
        assert "image/7?of=" in first


def test_the_first_page_and_a_wrong_one(address: str, browser: str, tmp_path: Path) -> None:
    html = dom(browser, address, tmp_path)
    assert html.count('href="?image=') == 12
    assert re.search(r'id="sides"[^>]* hidden', html)
    assert "There is no image 99." in dom(browser, f"{address}/?image=99", tmp_path)
