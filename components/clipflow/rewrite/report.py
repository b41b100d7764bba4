"""The report: figures by source, histograms, and captions beside their rewrites, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from clipflow import page
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.artifacts.rewrites import ACCEPTED, Candidate
from clipflow.page.svg import histogram
from clipflow.page.text import visible
from clipflow.rewrite import agreement, quality
from clipflow.rewrite.quality import ALL, OTHER, Measured, Row

TEMPLATE = "report.html"
FILE = "report.html"
NUM_SHOWN = 24
"""Captions shown whatever came of them."""
NUM_REJECTED_SHOWN = 16
"""More captions of which something was rejected or flagged."""
MAX_PER_REASON = 4
NUM_REASONS = 3
"""Reasons named for each source in the table."""
RATIO_BIN, NUM_RATIO_BINS = 0.25, 10
COSINE_BIN, NUM_COSINE_BINS = 0.1, 10


class Sample(NamedTuple):
    """A caption as the page shows it."""

    key: str
    caption: str
    candidates: list[Candidate]


def finish(
    writer: artifact.Writer, source: Pairs, embed: agreement.Embed | None, **facts: Any
) -> dict[str, Any]:
    """Write report.html and the manifest over all shards that there are; return the manifest's facts.

    `facts` say how the shards were made, at least by which `generator` and `params`.
    """
    counts = writer.counts()
    quality = write(
        writer.folder, source, counts, generator=facts["generator"]["name"],
        num_rewrites=facts["params"]["num_rewrites"], agreement_by=facts["params"]["agreement"],
        embed=embed,
    )  # fmt: skip
    facts |= {**counts, "quality": quality, "pairs": manifest.digest(source.folder)}
    writer.close(**facts)
    return facts


def write(
    folder: Path,
    pairs: Pairs,
    counts: Mapping[str, Any],
    *,
    generator: str,
    num_rewrites: int,
    agreement_by: str | None,
    embed: agreement.Embed | None,
) -> dict[str, Any]:
    """Write report.html for the shards in `folder`; return the same figures, for the manifest.

    `counts`: what `artifact.Writer.counts()` returns.
    """
    rows = quality.sample(folder, pairs)
    by_source = counts["outcomes_by_source"]
    measured = quality.measure(rows, quality.grouped(by_source), embed)
    figures = quality.facts(by_source, measured)
    text = (
        page.environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            generator=generator,
            num_rewrites=num_rewrites,
            num_pairs=counts["num_pairs"],
            num_without_rewrite=counts["num_without_rewrite"],
            num_sampled=len(rows),
            agreement_by=agreement_by,
            all=figures.get(ALL),
            sources=_by_size(figures),
            num_other=sum(group == OTHER for group in quality.grouped(by_source).values()),
            reasons=_reasons,
            histograms=_histograms(rows, measured.get(ALL, Measured()), num_rewrites),
            samples=[_sample(row) for row in rows[:NUM_SHOWN]],
            rejected=[_sample(row) for row in _with_rejections(rows[NUM_SHOWN:])],
            accepted=ACCEPTED,
        )
    )
    (folder / FILE).write_text(text, encoding="utf-8")
    return {"agreement_by": agreement_by, "num_sampled": len(rows), "figures": figures}


def _sample(row: Row) -> Sample:
    candidates: list[Candidate] = [{**c, "text": visible(c["text"])} for c in row.candidates]
    return Sample(row.key, visible(row.caption), candidates)


def _with_rejections(rows: Sequence[Row]) -> list[Row]:
    """The first rows with something rejected or flagged, a few for each reason."""
    shown: list[Row] = []
    num_shown: dict[str, int] = {}
    for row in rows:
        reasons = {
            reason
            for c in row.candidates
            for reason in ([c["outcome"]] if c["outcome"] != ACCEPTED else c.get("flags") or [])
        }
        new = {r for r in reasons if num_shown.get(r, 0) < MAX_PER_REASON}
        if new:
            shown.append(row)
            num_shown |= {r: num_shown.get(r, 0) + 1 for r in reasons}
        if len(shown) == NUM_REJECTED_SHOWN:
            break
    return shown


def _by_size(figures: Mapping[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The sources, those with the most candidates first and `other` last."""
    sources = [(name, facts) for name, facts in figures.items() if name != ALL]
    return sorted(sources, key=lambda s: (s[0] == OTHER, -s[1]["num_candidates"], s[0]))


def _reasons(facts: Mapping[str, Any], kind: str) -> list[tuple[str, float]]:
    """The most frequent reasons to reject or flag, with their shares of all candidates."""
    ordered = sorted(facts[kind].items(), key=lambda item: (-item[1], item[0]))
    return [(reason, n / facts["num_candidates"]) for reason, n in ordered[:NUM_REASONS]]


def _histograms(rows: Sequence[Row], measured: Measured, num_rewrites: int) -> dict[str, Markup]:
    num_accepted = [sum(c["outcome"] == ACCEPTED for c in row.candidates) for row in rows]
    most = max([num_rewrites, *num_accepted])
    found = {
        "Accepted rewrites of a caption": histogram(
            "Accepted rewrites of a caption",
            [str(number) for number in range(most + 1)],
            [num_accepted.count(number) for number in range(most + 1)],
        )
    }
    charts = [("Length ratio",
               measured.length_ratios, RATIO_BIN, NUM_RATIO_BINS, "+"),
              ("Agreement with the caption (cosine)",
               measured.cosines, COSINE_BIN, NUM_COSINE_BINS, "")]  # fmt: skip
    for title, values, step, num_bins, mark in charts:
        if not values:
            continue
        counts = [0] * num_bins
        for value in values:
            # What lies on an edge belongs above it, whatever the rounding.
            counts[min(num_bins - 1, max(0, int(value / step + 1e-6)))] += 1
        edges = [f"{round(number * step, 4):g}" for number in range(num_bins + 1)]
        found[title] = histogram(title, [*edges[:-1], edges[-1] + mark], counts)
    return found
