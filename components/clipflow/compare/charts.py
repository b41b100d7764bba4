"""Charts of a comparison as inline SVG. Sides differ in colour, dash and mark; `s0` is the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from clipflow.page import svg
from clipflow.page.curves import Points, curves

LABEL_PX, PLOT_PX, RIGHT_PX = 300, 560, 20
LANE_PX = 15
"""Between the marks of two sides in one row."""
STYLES = 6
"""Sides that look different; more begin again."""


@dataclass(frozen=True)
class Mark:
    """A value with what it could also be. `style` is the number of its side."""

    style: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of a chart: a label, and marks below each other."""

    label: str
    marks: Sequence[Mark]


def style(number: int) -> str:
    """The CSS class of a side."""
    return f"s{number % STYLES}"


def symbol(number: int, x: float = 7, y: float = 7) -> Markup:
    """The mark of a side around (x, y)."""
    shapes = (
        '<circle cx="{x}" cy="{y}" r="5"/>',
        '<path d="M{x} {y}m0 -6.5l6.5 6.5l-6.5 6.5l-6.5 -6.5z"/>',
        '<path d="M{x} {y}m-4.5 -4.5h9v9h-9z"/>',
    )
    body = Markup(shapes[number % len(shapes)]).format(x=f"{x:.1f}", y=f"{y:.1f}")
    return Markup('<g class="mark {}">{}</g>').format(style(number), body)


def swatch(number: int) -> Markup:
    """A piece of a side's line with its mark, for a legend."""
    line = Markup('<path class="line {}" d="M0 7H34"/>').format(style(number))
    return Markup(
        '<svg width="34" height="14" viewBox="0 0 34 14" aria-hidden="true">{}{}</svg>'
    ).format(line, symbol(number, 17))


def ranges(title: str, rows: Sequence[Row], *, unit: str, zero: bool) -> Markup:
    """A row for each label; marks at their values, a line from low to high. zero: draw the zero line."""
    ends = [e for r in rows for m in r.marks for e in (m.value, m.low, m.high) if e is not None]
    ticks = [
        float(t)
        for t in MaxNLocator(6).tick_values(min(ends + [0.0] * zero), max(ends + [0.0] * zero))
    ]
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return round(LABEL_PX + PLOT_PX * (value - low) / (high - low), 1)

    height = sum(_height(row) for row in rows)
    parts = []
    for tick in ticks:
        sign = f"{tick + 0.0:+.3g}" if zero and tick else f"{tick + 0.0:.3g}"
        line = '<path class="grid{}" d="M{} 0V{}"/><text x="{}" y="{}" class="mid">{}</text>'
        kind = " zero" if zero and abs(tick) < 1e-9 else ""
        parts.append(
            Markup(line).format(
                kind, x(tick), height, x(tick), height + 18, sign.replace("-", "\u2212")
            )
        )
    parts.append(
        Markup('<text x="{}" y="{}" class="mid soft">{}</text>').format(
            LABEL_PX + PLOT_PX / 2, height + 38, unit
        )
    )
    top = 0.0
    for row in rows:
        middle = top + _height(row) / 2
        parts.append(
            Markup('<path class="grid" d="M{} {}H{}"/>').format(0, top, LABEL_PX + PLOT_PX)
        )
        parts.append(
            Markup('<text x="{}" y="{}" class="end">{}</text>').format(
                LABEL_PX - 16, middle + 5, _short(row.label)
            )
        )
        for lane, mark in enumerate(row.marks):
            y = middle + LANE_PX * (lane - (len(row.marks) - 1) / 2)
            if mark.low is not None and mark.high is not None:
                line = '<path class="range {}" d="M{} {}H{}"/>'
                parts.append(Markup(line).format(style(mark.style), x(mark.low), y, x(mark.high)))
            parts.append(symbol(mark.style, x(mark.value), y))
        top += _height(row)
    return svg.svg(LABEL_PX + PLOT_PX + RIGHT_PX, height + 44, title, parts)


def _height(row: Row) -> float:
    return LANE_PX * max(1, len(row.marks)) + 17


def seeds(title: str, rows: Sequence[tuple[str, Sequence[float]]], *, unit: str) -> Markup:
    """A row for each group: a dot for each seed, a line at their mean, which is written beside it."""
    every = [value for _, values in rows for value in values]
    ticks = [float(t) for t in MaxNLocator(5).tick_values(min(every), max(every))]
    low, high = ticks[0], ticks[-1]
    left, width, step = 190, 230, 34

    def x(value: float) -> float:
        return round(left + width * (value - low) / (high - low), 1)

    height, parts = step * len(rows), []
    for tick in ticks:
        line = '<path class="grid" d="M{} 0V{}"/><text x="{}" y="{}" class="mid">{:.3g}</text>'
        parts.append(Markup(line).format(x(tick), height, x(tick), height + 16, tick + 0.0))
    for number, (name, values) in enumerate(rows):
        y, mean = step * (number + 0.5), sum(values) / len(values)
        label = '<text x="{}" y="{}" class="end">{}</text><path class="grid" d="M{} {}H{}"/>'
        parts.append(
            Markup(label).format(left - 14, y + 5, _short(name, 24), left, y, left + width)
        )
        dot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="4.5"/>')
        parts += [dot.format(style(number), x(value), y) for value in values]
        line = '<path class="mean {}" d="M{} {}v22"/><text x="{}" y="{}">{:.1f}</text>'
        parts.append(
            Markup(line).format(style(number), x(mean), y - 11, left + width + 14, y + 5, mean)
        )
    unit_text = '<text x="{}" y="{}" class="mid soft">{}</text>'
    parts.append(Markup(unit_text).format(left + width / 2, height + 34, unit))
    return svg.svg(left + width + 60, height + 40, title, parts)


def over_steps(title: str, lines: Sequence[tuple[int, Points]]) -> Markup:
    """The curves of several sides, by their numbers, over training steps."""
    styled = [(f"line {style(number)}", points) for number, points in lines]
    return curves(title, styled, size_px=(460, 230), num_ticks=5)


def _short(name: str, limit: int = 38) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"
