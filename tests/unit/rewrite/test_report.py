import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.artifacts.rewrites import Candidate, Writer
from clipflow.page.svg import histogram
from clipflow.page.text import MAX_CHARACTERS
from clipflow.rewrite import report
from fakes.artifacts import make_pairs

CAPTIONS = {
    "k0": "a <b>bold</b> & tall tower",
    "k1": "\u05db\u05dc\u05d1 \u05d1\u05d7\u05d5\u05e3",
    "k2": "nothing here",
}
CANDIDATES: dict[str, list[Candidate]] = {
    "k0": [
        {"text": "a tower <script>", "source": "chat", "outcome": "accepted"},
        {"text": "evil\u202e \x07text", "source": "chat", "outcome": "control characters"},
        {"text": "a tower", "source": "web", "outcome": "accepted", "flags": ["lost name"]},
    ],
    "k1": [{"text": "x" * 5000, "source": "web", "outcome": "too long"}],
    "k2": [],
}


class Page(HTMLParser):
    """The tags that are open at the end, those that there were, and what a browser would load."""

    VOID = frozenset({"meta", "link", "br", "img", "wbr", "rect", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write(tmp_path: Path, captions: dict[str, str], candidates: dict[str, list[Candidate]]) -> str:
    pairs = Pairs(make_pairs(tmp_path / "pairs", captions))
    with manifest.complete_or_absent(tmp_path / "rewrites") as folder:
        writer = Writer(folder)
        for name, keys, _ in pairs.by_shard():
            writer.add_shard(name, {key: candidates[key] for key in keys})
        counts = writer.counts()
        report.write(
            folder, pairs, counts, generator="fake", num_rewrites=2, agreement_by=None, embed=None
        )
        writer.close(**counts)
    return (tmp_path / "rewrites" / "report.html").read_text(encoding="utf-8")


def test_the_page_is_one_file_that_loads_and_runs_nothing(tmp_path: Path) -> None:
    page = Page(write(tmp_path, CAPTIONS, CANDIDATES))
    assert not page.open
    assert not page.addresses
    assert not page.tags & {"script", "link", "iframe", "img"}


def test_captions_and_candidates_are_shown_as_text(tmp_path: Path) -> None:
    text = write(tmp_path, CAPTIONS, CANDIDATES)
    assert "<bdi>a &lt;b&gt;bold&lt;/b&gt; &amp; tall tower</bdi>" in text
    assert "a tower &lt;script&gt;" in text
    assert "<del><bdi>evil&lt;U+202E&gt; &lt;U+0007&gt;text</bdi></del>" in text
    assert "\u202e" not in text
    assert "control characters" in text
    assert "lost name" in text
    assert "x" * MAX_CHARACTERS + "\u2026" in text
    assert "x" * (MAX_CHARACTERS + 1) not in text
    assert "nothing was proposed" in text


def test_equal_rewrites_make_equal_pages(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = write(tmp_path / "one", CAPTIONS, CANDIDATES)
    assert write(tmp_path / "two", CAPTIONS, CANDIDATES) == one


def test_a_run_that_proposed_nothing_has_a_page(tmp_path: Path) -> None:
    page = Page(write(tmp_path, {"k": "a dog"}, {"k": []}))
    assert "table" not in page.tags


def test_rejections_are_shown_a_few_for_each_reason(tmp_path: Path) -> None:
    captions = {f"k{n:03d}": f"caption {n}" for n in range(100)}
    candidates: dict[str, list[Candidate]] = {
        key: [{"text": f"text {key}", "source": "x", "outcome": "copy"}] for key in captions
    }
    text = write(tmp_path, captions, candidates)
    assert text.count("&#10007;") == report.NUM_SHOWN + report.MAX_PER_REASON


@pytest.mark.parametrize("counts", [[0, 0], [1, 3], [0, 1000, 1]])
def test_a_histogram_has_a_bar_per_count(counts: list[int]) -> None:
    edges = [str(n) for n in range(len(counts) + 1)]
    svg = histogram("h", edges, counts)
    assert [int(n) for n in re.findall(r"<title>(\d+)", svg.replace(",", ""))] == counts
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" rx', svg)]
    assert len(heights) == len(counts)
    assert max(heights) == heights[counts.index(max(counts))]
