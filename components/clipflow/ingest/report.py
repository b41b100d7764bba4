"""The report: from rows to pairs, what was left out and why, sizes, caption lengths, samples, hosts."""

from __future__ import annotations

import base64
import io
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from markupsafe import Markup
from PIL import Image

from clipflow import page
from clipflow.artifacts import pairs as artifact
from clipflow.artifacts.pairs import HELD_OUT, KEPT
from clipflow.page.svg import histogram
from clipflow.page.text import visible

FILE = "report.html"
STEPS = {
    "row": "with a caption that is taken",
    "fetch": "with an image that came",
    "image": "with an image that is taken",
    "all": "that no other image rules out",
}
"""What is left after each step at which rows go."""
NUM_SAMPLES = 48
SAMPLE_PX = 200
"""Longer side of a sample on the page."""
NUM_HOSTS = 15
MIN_OF_HOST = 10
"""Hosts with fewer rows say little."""
SIDES_PX = (0, 64, 128, 256, 512, 1024, 2048)
WORDS = (0, 2, 4, 8, 12, 16, 24, 32, 64)


class Host(NamedTuple):
    """What came from one server."""

    name: str
    num_rows: int
    num_failed: int
    reason: str
    """The most frequent one."""


@dataclass
class Summary:
    """What the page says, gathered a shard at a time."""

    outcomes: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Rows that went, by step."""
    num_retryable: int = 0
    sides_px: Counter[int] = field(default_factory=Counter)
    """Shorter sides of the source's images by bin of SIDES_PX."""
    words: Counter[int] = field(default_factory=Counter)
    """Words of kept captions by bin of WORDS."""
    hosts: dict[str, Counter[str]] = field(default_factory=dict)
    """What was wrong with each server's images; nothing is the empty reason."""

    @property
    def num_rows(self) -> int:
        """All rows that were read."""
        return sum(self.outcomes.values())


def write(folder: Path) -> None:
    """Write report.html beside the shards of a `pairs` artifact that has its outcomes."""
    pairs = artifact.Pairs(folder)
    summary = summarize(pairs)
    text = (
        page.environment(Path(__file__).parent)
        .get_template(FILE)
        .render(
            source=pairs.manifest["source"],
            num_pairs=len(pairs),
            num_shards=len(pairs.shards),
            num_bytes=sum(shard.stat().st_size for shard in pairs.shards),
            summary=summary,
            funnel=_funnel(summary),
            reasons=[(r, n, n / summary.num_rows) for r, n in summary.outcomes.most_common()
                     if r not in (KEPT, HELD_OUT)],
            histograms=[
                _histogram("Shorter side of the source's images (px)", SIDES_PX, summary.sides_px),
                _histogram("Words of a caption", WORDS, summary.words),
            ],
            hosts=_worst(summary.hosts),
            num_hosts=len(summary.hosts),
            curation=pairs.manifest.get("curation"),
            samples=list(_samples(pairs)),
        )
    )  # fmt: skip
    (folder / FILE).write_text(text, encoding="utf-8")


def summarize(pairs: artifact.Pairs) -> Summary:
    """Count outcomes, sizes, words and hosts."""
    summary = Summary()
    for table in artifact.outcomes(pairs.folder):
        outcomes, names = table["outcome"].to_pylist(), table["name"].to_pylist()
        summary.outcomes.update(outcomes)
        summary.lost.update(table["step"].to_pylist())
        summary.num_retryable += sum(table["retryable"].to_pylist())
        sides = np.minimum(table["width_px"].to_numpy(), table["height_px"].to_numpy())
        summary.sides_px.update(_bins(sides[sides > 0], SIDES_PX))
        for name, outcome, step in zip(names, outcomes, table["step"].to_pylist(), strict=True):
            if name.startswith(("http://", "https://")) and step != "row":
                fault = outcome if step in ("fetch", "image") else ""
                summary.hosts.setdefault(_host(name), Counter())[fault] += 1
    for _, _, captions in pairs.by_shard():
        words = np.array([len(caption.split()) for caption in captions])
        summary.words.update(_bins(words, WORDS))
    return summary


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "?"
    except ValueError:
        return "?"


def _bins(values: np.ndarray[Any, Any], edges: Sequence[int]) -> list[int]:
    return [int(bin_) for bin_ in np.searchsorted(edges, values, side="right") - 1]


def _funnel(summary: Summary) -> list[tuple[str, int, float]]:
    """`(what, rows left, share of all)` after each step, from all rows to the pairs."""
    left = summary.num_rows
    steps = [("rows of the source", left)]
    for step, name in STEPS.items():
        left -= summary.lost[step]
        steps.append((name, left))
    held = summary.outcomes[HELD_OUT]
    steps.append(("pairs to train on", left - held))
    if held:
        steps.append(("held out to measure by", held))
    return [(name, count, count / max(1, summary.num_rows)) for name, count in steps]


def _worst(hosts: dict[str, Counter[str]]) -> list[Host]:
    """The servers that failed most often."""
    found = []
    for name, outcomes in hosts.items():
        num_rows = outcomes.total()
        failed = Counter({reason: n for reason, n in outcomes.items() if reason})
        if failed and num_rows >= MIN_OF_HOST:
            found.append(Host(name, num_rows, failed.total(), failed.most_common(1)[0][0]))
    return sorted(found, key=lambda h: (-h.num_failed / h.num_rows, -h.num_rows, h.name))[
        :NUM_HOSTS
    ]


def _histogram(title: str, edges: Sequence[int], counts: Counter[int]) -> Markup:
    labels = [f"{edge:g}" for edge in edges]
    labels[-1] += "+"
    return histogram(title, labels, [counts[number] for number in range(len(edges))])


def _samples(pairs: artifact.Pairs) -> Iterator[tuple[str, str, str]]:
    """`(data URL, caption, key)` of some pairs, drawn the same way each time."""
    rng = random.Random(0)
    places = [
        (number, index)
        for number, shard in enumerate(pairs.manifest["shards"])
        for index in range(shard["num_pairs"])
    ]
    drawn = sorted(rng.sample(places, min(NUM_SAMPLES, len(places))))
    for number, index in drawn:
        row = next(row for n, row in enumerate(pairs.rows(number, images=True)) if n == index)
        with Image.open(io.BytesIO(row.image or b"")) as image:
            image.thumbnail((SAMPLE_PX, SAMPLE_PX))
            out = io.BytesIO()
            image.convert("RGB").save(out, "JPEG", quality=80)
        url = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
        yield url, visible(row.caption), row.key
