"""Charts as inline SVG: vector, themed by the page's CSS classes, text escaped.

Marks differ in shape as well as in colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from clipflow.evaluate.metrics import Indices
from clipflow.page import svg
from clipflow.page.curves import Points, curves
from clipflow.significance import Interval

LABEL_PX = 230
PLOT_PX = 640
ROW_PX = 36
LANES = {"canonical": -8, "synonyms": 8}
"""Offsets in px from a row's middle, so that equal values don't hide each other."""
CELL_PX = 34
CHARACTER_PX = 7.3
"""About the width of a letter in a label."""
MAX_CLASSES = 24
"""Confusion matrices show at most this many classes: those in the most mistakes."""
MAX_CELL_TEXT = 16
"""With more classes, cells are too small for a number."""


@dataclass(frozen=True)
class Row:
    """One line of a dot chart; all values are fractions."""

    label: str
    chance: float
    marks: dict[str, float]
    """Value by kind of mark: a CSS class and a shape of `symbol`."""
    interval: Interval | None = None
    """Of the mark `ensemble`."""


def symbol(kind: str, x: float = 7, y: float = 7) -> Markup:
    """The mark of one kind around (x, y), at most 14 px wide and 22 px high."""
    shape = {
        "canonical": '<circle cx="{x}" cy="{y}" r="5"/>',
        "synonyms": '<path d="M{x} {y}m0 -7l7 7l-7 7l-7 -7z"/>',
        "probe": '<path d="M{x} {y}m-5 -5h10v10h-10z"/>',
        "champion": '<path d="M{x} {y}m0 -11v22"/>',
        "chance": '<path d="M{x} {y}m0 -11v22"/>',
    }.get(kind, '<circle cx="{x}" cy="{y}" r="6"/>')
    body = Markup(shape).format(x=f"{x:.1f}", y=f"{y:.1f}")
    return Markup('<g class="mark {}">{}</g>').format(kind, body)


def dots(rows: Sequence[Row]) -> Markup:
    """One row per task, 0 to 100 % from left to right."""
    height = ROW_PX * len(rows)
    parts = [
        Markup('<path class="grid" d="M{x} 0V{h}"/><text x="{x}" y="{y}" class="mid">{t} %</text>')
        .format(x=_at(tenths / 10), h=height, y=height + 18, t=tenths * 10)
        for tenths in range(0, 11, 2)
    ]  # fmt: skip
    for number, row in enumerate(rows):
        y = ROW_PX * (number + 0.5)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(_at(0), y, _at(1)))
        parts.append(
            Markup('<text x="{}" y="{}" class="end">{}</text>').format(
                LABEL_PX - 12, y + 5, row.label
            )
        )
        parts.append(symbol("chance", _at(row.chance), y))
        if row.interval:
            line = Markup('<path class="interval" d="M{} {}H{}"/>')
            parts.append(line.format(_at(row.interval.low), y, _at(row.interval.high)))
        parts += [
            symbol(kind, _at(value), y + LANES.get(kind, 0)) for kind, value in row.marks.items()
        ]
    return svg.svg(LABEL_PX + PLOT_PX + 30, height + 26, "Every task against chance", parts)


def _at(fraction: float) -> float:
    return round(LABEL_PX + PLOT_PX * fraction, 1)


def curve(name: str, ours: Points, theirs: Points = ()) -> Markup:
    """`ours` as a solid line over steps, `theirs` dashed behind it."""
    lines = [("theirs", theirs), ("ours", ours)]
    return curves(name, lines, size_px=(440, 200), num_ticks=4)


def few_shot(name: str, draws: Mapping[str, Sequence[float]], zero_shot: float) -> Markup:
    """Accuracy of each draw, and their mean, over the number of examples per class; zero-shot beside it."""
    width, height, left, right, bottom = 440, 200, 46, 22, 24
    shots = sorted(draws, key=int)
    step = (width - left - right) / max(1, len(shots))

    def y(value: float) -> float:
        return round(height - bottom - (height - bottom - 10) * value, 1)

    parts = _percent_lines(left, width - right, y)
    middle = [left + step * (n + 0.5) for n in range(len(shots))]
    line = Markup('<path class="zero" d="M{} {}H{}"/>')
    parts.append(line.format(left, y(zero_shot), width - right))
    means = [sum(draws[of]) / len(draws[of]) for of in shots]
    path = " ".join(f"{x:.1f},{y(mean)}" for x, mean in zip(middle, means, strict=True))
    parts.append(Markup('<polyline class="ours" points="{}"/>').format(path))
    for x, of in zip(middle, shots, strict=True):
        parts.append(
            Markup('<text x="{:.1f}" y="{}" class="mid">{}</text>').format(x, height - 6, of)
        )
        parts += [
            Markup('<circle class="draw" cx="{:.1f}" cy="{}" r="3"/>').format(x, y(value))
            for value in draws[of]
        ]
    return svg.svg(width, height, f"{name}: accuracy over examples per class", parts)


def reliability(name: str, bins: Sequence[tuple[float, float, int]]) -> Markup:
    """Accuracy over confidence, a dot per bin, its area by the number of samples; ideal is the diagonal."""
    width, height, left, right, bottom = 310, 250, 46, 24, 40
    total = sum(count for *_, count in bins) or 1

    def x(value: float) -> float:
        return round(left + (width - left - right) * value, 1)

    def y(value: float) -> float:
        return round(height - bottom - (height - bottom - 10) * value, 1)

    parts = _percent_lines(left, width - right, y)
    parts.append(Markup('<path class="diagonal" d="M{} {}L{} {}"/>').format(x(0), y(0), x(1), y(1)))
    for tenths in (0, 5, 10):
        text = Markup('<text x="{}" y="{}" class="mid">{} %</text>')
        parts.append(text.format(x(tenths / 10), height - bottom + 16, tenths * 10))
    text = Markup('<text x="{}" y="{}" class="mid">confidence</text>')
    parts.append(text.format(x(0.5), height - 6))
    for confidence, accuracy, count in bins:
        dot = (
            '<circle class="bin" cx="{}" cy="{}" r="{:.1f}">'
            "<title>{:.0f} % sure, {:.0f} % right: {:,} images</title></circle>"
        )
        radius = 2.5 + 13 * (count / total) ** 0.5
        parts.append(
            Markup(dot).format(
                x(confidence), y(accuracy), radius, 100 * confidence, 100 * accuracy, count
            )
        )
    return svg.svg(width, height, f"{name}: accuracy over confidence", parts)


def _percent_lines(left: float, right: float, y: Callable[[float], float]) -> list[Markup]:
    line = '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="end">{} %</text>'
    return [
        Markup(line).format(left, y(part / 4), right, left - 6, y(part / 4) + 4, part * 25)
        for part in range(5)
    ]


def confusion(counts: Indices, classnames: Sequence[str], shown: Sequence[int]) -> Markup:
    """Rows are actual classes, columns predicted ones; over all columns a row sums to 100 %."""
    size = min(56.0, max(CELL_PX, 360 / len(shown)))
    names = [_short(classnames[i]) for i in shown]
    longest = CHARACTER_PX * max(map(len, names))
    left, top = 16 + longest, 34 + longest * 0.72
    totals = counts.sum(axis=1)[shown]
    counts = counts[np.ix_(shown, shown)]
    parts = [
        Markup('<text x="{}" y="12" class="mid">predicted</text>').format(
            left + size * len(names) / 2
        )
    ]
    for row, name in enumerate(names):
        middle = top + size * (row + 0.5)
        label = Markup('<text x="{}" y="{}" class="end">{}</text>')
        parts.append(label.format(left - 8, middle + 5, name))
        turned = Markup('<text transform="translate({} {}) rotate(-45)">{}</text>')
        parts.append(turned.format(left + size * (row + 0.6), top - 8, name))
        for column, other in enumerate(names):
            share = counts[row, column] / totals[row] if totals[row] else 0.0
            shade = share**0.6  # so that rare mistakes are seen
            x, y = left + size * column, top + size * row
            cell = Markup(
                '<g class="cell{}"><rect x="{}" y="{}" width="{}" height="{}" '
                'fill-opacity="{:.3f}">'
                "<title>{} taken for {}: {} of {}</title></rect>"
            ).format(
                " right" if row == column else "", x, y, size - 2, size - 2, shade,
                name, other, counts[row, column], totals[row],
            )  # fmt: skip
            if len(names) <= MAX_CELL_TEXT and counts[row, column]:
                text = Markup('<text x="{}" y="{}" class="mid{}">{:.0f}</text>')
                dark = " on-dark" if shade > 0.55 else ""
                cell += text.format(x + size / 2 - 1, y + size / 2 + 4, dark, 100 * share)
            parts.append(cell + Markup("</g>"))
    side = size * len(names)
    return svg.svg(left + side + longest * 0.72, top + side, "Confusion matrix", parts)


def most_confused(counts: Indices, limit: int = MAX_CLASSES) -> list[int]:
    """The classes to draw, in order: all, or the `limit` that most mistakes involve."""
    wrong = counts - np.diag(counts.diagonal())
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    return sorted((-involved).argsort(kind="stable")[:limit].tolist())


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\u2026"
