"""Charts as inline SVG: vector, themed by the page's CSS classes, text escaped."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup


def svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """A picture of `parts` that says its title to those who can't see it."""
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{t}">{b}</svg>'
    ).format(w=round(width), h=round(height), t=title, b=Markup("").join(parts))


def histogram(name: str, edges: Sequence[str], counts: Sequence[int]) -> Markup:
    """A bar for each of `counts`; `edges` are written below, one under each bar or between bars."""
    width, height, left, right, bottom, top = 440, 190, 14, 14, 26, 22
    total, highest = max(1, sum(counts)), max(1, *counts)
    step = (width - left - right) / len(counts)
    parts = []
    for number, count in enumerate(counts):
        x, bar = left + number * step, (height - bottom - top) * count / highest
        y = height - bottom - bar
        shape = (
            '<g class="bin"><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>'
            "<title>{:,} of {:,}</title>{}</g>"
        )
        share = Markup("")
        if count:
            text = Markup('<text x="{:.1f}" y="{:.1f}" class="mid">{}</text>')
            share = text.format(x + step / 2, y - 6, _percent(count / total))
        parts.append(Markup(shape).format(x + 1.5, y, step - 3, bar, count, total, share))
    between = len(edges) > len(counts)
    for number, edge in enumerate(edges):
        x = left + step * (number if between else number + 0.5)
        parts.append(
            Markup('<text x="{:.1f}" y="{}" class="mid">{}</text>').format(x, height - 8, edge)
        )
    line = Markup('<path class="grid" d="M{} {}H{}"/>')
    parts.append(line.format(left, height - bottom, width - right))
    return svg(width, height, name, parts)


def _percent(share: float) -> str:
    return "<1" if share < 0.01 else f"{100 * share:.0f}"
