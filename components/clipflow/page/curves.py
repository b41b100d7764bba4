"""Training curves as inline SVG; here by themselves, since Matplotlib's ticks take a while to import."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from clipflow.page import svg

Points = Sequence[tuple[int, float]]

POINTS = 300
"""Points drawn of a curve; each is the mean of its neighbours."""
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 62, 22, 10, 24


def curves(
    title: str, lines: Sequence[tuple[str, Points]], *, size_px: tuple[int, int], num_ticks: int
) -> Markup:
    """Lines over training steps, one upon the other, each with its CSS class; one at least has points.

    size_px: width and height. num_ticks: about as many intervals of the values are marked.
    """
    width, height = size_px
    drawn = [(kind, _thinned(points)) for kind, points in lines if points]
    every = [point for _, points in drawn for point in points]
    last = max(step for step, _ in every) or 1
    ticks = MaxNLocator(num_ticks).tick_values(min(y for _, y in every), max(y for _, y in every))
    low, high = float(ticks[0]), float(ticks[-1])

    def x(step: float) -> float:
        return round(LEFT_PX + (width - LEFT_PX - RIGHT_PX) * step / last, 1)

    def y(value: float) -> float:
        span = height - BOTTOM_PX - TOP_PX
        return round(height - BOTTOM_PX - span * (value - low) / (high - low), 1)

    parts = []
    for tick in ticks:
        line = '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="end">{:.3g}</text>'
        parts.append(
            Markup(line).format(
                LEFT_PX, y(tick), width - RIGHT_PX, LEFT_PX - 8, y(tick) + 4, float(tick) + 0.0
            )
        )
    for step in MaxNLocator(4, integer=True).tick_values(0, last):
        if 0 <= step <= last:
            text = Markup('<text x="{}" y="{}" class="mid">{:,.0f}</text>')
            parts.append(text.format(x(step), height - 6, float(step)))
    for kind, points in drawn:
        path = " ".join(f"{x(step)},{y(value)}" for step, value in points)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(kind, path))
    return svg.svg(width, height, f"{title} over training steps", parts)


def _thinned(points: Points) -> list[tuple[int, float]]:
    parts = np.array_split(np.array(points, dtype=float), min(POINTS, len(points)))
    return [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts]
