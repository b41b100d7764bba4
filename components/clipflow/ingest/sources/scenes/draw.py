"""Scenes as pictures: drawn at four times the area, with light, grain and clutter, then shrunk."""

from __future__ import annotations

import colorsys
import io
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from clipflow.ingest.sources.scenes.world import Scene, Thing

Rgb = tuple[int, int, int]
SUPERSAMPLING = 2
DARK: Rgb = (40, 36, 40)
PALE: Rgb = (236, 232, 224)
# hue, saturation, value of each colour; drawn with some jitter
HUES: dict[str, tuple[float, float, float]] = {
    "red": (0.99, 0.85, 0.80),
    "blue": (0.61, 0.80, 0.80),
    "green": (0.36, 0.75, 0.60),
    "yellow": (0.15, 0.80, 0.95),
    "purple": (0.77, 0.65, 0.65),
    "orange": (0.075, 0.90, 0.95),
    "pink": (0.92, 0.45, 0.97),
    "brown": (0.07, 0.65, 0.45),
}
# upper and lower colour of each place, and where the horizon is
PLACES: dict[str, tuple[Rgb, Rgb, float]] = {
    "beach": ((150, 205, 235), (232, 212, 160), 0.55),
    "meadow": ((170, 215, 245), (96, 158, 72), 0.45),
    "desert": ((245, 205, 150), (206, 150, 92), 0.50),
    "snow": ((196, 208, 222), (246, 248, 252), 0.45),
    "city": ((176, 184, 196), (104, 104, 110), 0.70),
    "lake": ((186, 214, 226), (60, 112, 150), 0.40),
    "room": ((214, 196, 170), (142, 100, 66), 0.68),
    "night sky": ((14, 18, 52), (22, 30, 40), 0.80),
}


def jpeg(scene: Scene, size_px: int, quality: int, rng: random.Random) -> bytes:
    """The scene as JPEG bytes, `size_px` square."""
    picture = _background(scene.place, size_px * SUPERSAMPLING, rng)
    for thing, (x, y, side) in _layout(scene, rng):
        _paste(picture, thing, x, y, side, rng)
    picture = picture.resize((size_px, size_px), Image.Resampling.BOX)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, 3, (size_px, size_px, 1))
    light = rng.uniform(0.8, 1.15)
    pixels = np.clip(np.asarray(picture) * light + grain, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _layout(scene: Scene, rng: random.Random) -> list[tuple[Thing, tuple[float, float, float]]]:
    """Where each object's box is: left, top and side as shares of the picture."""
    if scene.other is not None:
        side = rng.uniform(0.42, 0.46)
        first, second = rng.uniform(0.03, 0.10), rng.uniform(0.52, 0.56)
        across = rng.uniform(0.1, 0.5)
        slip = across + rng.uniform(-0.08, 0.08)
        if scene.arrangement == "above":
            return [(scene.thing, (across, first, side)), (scene.other, (slip, second, side))]
        left, right = rng.sample((scene.thing, scene.other), 2)
        return [(left, (first, across, side)), (right, (second, slip, side))]
    count = scene.thing.count
    side = {1: rng.uniform(0.6, 0.85), 2: 0.45, 3: 0.42, 4: 0.42}[count] * rng.uniform(0.95, 1.05)
    cells = rng.sample([(0.06, 0.08), (0.54, 0.08), (0.06, 0.54), (0.54, 0.54)], count)
    if count == 1:
        cells = [(rng.uniform(0.02, 0.96 - side), rng.uniform(0.02, 0.96 - side))]
    jitter = 0.0 if count == 1 else 0.04
    return [
        (scene.thing, (x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter), side))
        for x, y in cells
    ]


def _paste(
    picture: Image.Image, thing: Thing, x: float, y: float, side: float, rng: random.Random
) -> None:
    px = max(8, round(side * picture.width))
    pen = Pen(px)
    SHAPES[thing.kind](pen)
    layer = _cloth(thing, px, rng)
    layer.putalpha(pen.body)
    layer.alpha_composite(pen.details)
    if rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layer = layer.rotate(rng.uniform(-6, 6), Image.Resampling.BILINEAR)
    corner = (round(x * picture.width), round(y * picture.width))
    shadow = Image.new("RGBA", layer.size, (0, 0, 0, 255))
    shadow.putalpha(layer.getchannel("A").point(lambda a: a * 2 // 5))
    picture.paste(shadow, (corner[0] + px // 20, corner[1] + px // 16), shadow)
    picture.paste(layer, corner, layer)


def _cloth(thing: Thing, px: int, rng: random.Random) -> Image.Image:
    """A square of the thing's colour and pattern."""
    hue, saturation, value = HUES[thing.colour]
    hue = (hue + rng.uniform(-0.012, 0.012)) % 1
    saturation, value = saturation * rng.uniform(0.9, 1.1), value * rng.uniform(0.9, 1.1)
    base = _rgb(hue, saturation, value)
    mark = _rgb(hue, saturation * 0.25, min(1.0, value * 1.5)) if value < 0.75 else PALE
    cloth = Image.new("RGBA", (px, px), base)
    pen = ImageDraw.Draw(cloth)
    step = max(4, round(px * rng.uniform(0.22, 0.28)))
    if thing.pattern == "striped":
        for left in range(-px, px, step):
            pen.line([(left, 0), (left + px // 3, px)], fill=mark, width=max(1, step * 2 // 5))
    elif thing.pattern == "spotted":
        radius = step * 0.3
        for row, top in enumerate(range(0, px + step, step)):
            for left in range(0, px + step, step):
                middle = left + (step // 2 if row % 2 else 0)
                pen.ellipse(
                    [middle - radius, top - radius, middle + radius, top + radius], fill=mark
                )
    elif thing.pattern == "checked":
        for row, top in enumerate(range(0, px, step)):
            for left in range((row % 2) * step, px, 2 * step):
                pen.rectangle([left, top, left + step - 1, top + step - 1], fill=mark)
    return cloth


def _background(place: str, px: int, rng: random.Random) -> Image.Image:
    upper, lower, horizon = PLACES[place]
    edge = round(px * (horizon + rng.uniform(-0.08, 0.08)))
    picture = Image.new("RGB", (px, px), _shade(upper, rng))
    pen = ImageDraw.Draw(picture)
    pen.rectangle([0, edge, px, px], fill=_shade(lower, rng))

    def spot(x: float, y: float, width: float, height: float) -> list[float]:
        return [x, y, x + width, y + height]

    if place == "night sky":
        for _ in range(40):
            pen.ellipse(spot(rng.uniform(0, px), rng.uniform(0, edge), 3, 3), fill=(250, 250, 220))
        pen.ellipse(spot(rng.uniform(0, px * 0.8), px * 0.08, px * 0.13, px * 0.13), fill=PALE)
    elif place == "city":
        left = 0.0
        while left < px:
            width, height = rng.uniform(0.1, 0.22) * px, rng.uniform(0.2, 0.6) * px
            pen.rectangle(
                [left, edge - height, left + width, edge], fill=_shade((120, 124, 136), rng)
            )
            for top in np.arange(edge - height + 6, edge - 6, 14):
                for window in np.arange(left + 5, left + width - 6, 11):
                    pen.rectangle(spot(window, float(top), 4, 6), fill=(236, 220, 150))
            left += width + rng.uniform(0, 0.03) * px
    elif place == "room":
        window = rng.uniform(0.05, 0.6) * px
        pen.rectangle(spot(window, px * 0.1, px * 0.3, px * 0.28), fill=(200, 228, 245), outline=PALE,
                      width=5)  # fmt: skip
        for left in range(0, px, px // 6):
            pen.line([(left, edge), (left - px // 8, px)], fill=_shade((112, 78, 50), rng), width=2)
    elif place == "lake":
        for _ in range(26):
            left, top = rng.uniform(0, px), rng.uniform(edge, px)
            pen.line([(left, top), (left + px * 0.09, top)], fill=(130, 176, 204), width=2)
    elif place == "meadow":
        for _ in range(160):
            left, top = rng.uniform(0, px), rng.uniform(edge, px)
            pen.line(
                [(left, top), (left + 2, top - px * 0.03)], fill=_shade((62, 124, 50), rng), width=2
            )
    elif place == "beach":
        shore = edge - px * 0.12
        pen.rectangle([0, shore, px, edge], fill=_shade((58, 148, 190), rng))
        pen.line([(0, edge), (px, edge)], fill=PALE, width=4)
    elif place == "desert":
        for _ in range(3):
            left, top = rng.uniform(-0.3, 0.8) * px, edge - rng.uniform(0.02, 0.10) * px
            pen.ellipse(spot(left, top, px * 0.7, px * 0.4), fill=_shade((222, 168, 104), rng))
    elif place == "snow":
        for _ in range(50):
            pen.ellipse(spot(rng.uniform(0, px), rng.uniform(0, px), 4, 4), fill=(255, 255, 255))
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.4)))


def _shade(colour: Rgb, rng: random.Random) -> Rgb:
    factor = rng.uniform(0.88, 1.08)
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def _rgb(hue: float, saturation: float, value: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(hue, min(1.0, saturation), min(1.0, value))
    return round(red * 255), round(green * 255), round(blue * 255)


class Pen:
    """Draws one object in a unit square: its body, which takes colour and pattern, and its details."""

    def __init__(self, px: int) -> None:
        self.px = px
        self.body = Image.new("L", (px, px), 0)
        self.details = Image.new("RGBA", (px, px), (0, 0, 0, 0))
        self._body, self._details = ImageDraw.Draw(self.body), ImageDraw.Draw(self.details)

    def polygon(self, *points: tuple[float, float], fill: Rgb | None = None) -> None:
        """A filled polygon."""
        corners = [(x * self.px, y * self.px) for x, y in points]
        self._on(fill).polygon(corners, fill=fill or 255)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb | None = None) -> None:
        """A filled rectangle."""
        self._on(fill).rectangle([v * self.px for v in (x0, y0, x1, y1)], fill=fill or 255)

    def oval(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb | None = None) -> None:
        """A filled ellipse in a box."""
        self._on(fill).ellipse([v * self.px for v in (x0, y0, x1, y1)], fill=fill or 255)

    def ring(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb | None = None) -> None:
        """The outline of an ellipse."""
        width = max(2, round(self.px * 0.06))
        corners = [v * self.px for v in (x0, y0, x1, y1)]
        self._on(fill).ellipse(corners, outline=fill or 255, width=width)

    def line(
        self, points: Sequence[tuple[float, float]], width: float, fill: Rgb | None = None
    ) -> None:
        """A thick line."""
        ends = [(x * self.px, y * self.px) for x, y in points]
        self._on(fill).line(ends, fill=fill or 255, width=max(2, round(width * self.px)))

    def _on(self, fill: Rgb | None) -> ImageDraw.ImageDraw:
        return self._body if fill is None else self._details


def _car(pen: Pen) -> None:
    pen.polygon((0.22, 0.48), (0.34, 0.28), (0.68, 0.28), (0.80, 0.48))
    pen.box(0.04, 0.46, 0.96, 0.70)
    pen.polygon((0.31, 0.46), (0.38, 0.33), (0.49, 0.33), (0.49, 0.46), fill=PALE)
    pen.polygon((0.53, 0.46), (0.53, 0.33), (0.65, 0.33), (0.72, 0.46), fill=PALE)
    for x in (0.16, 0.64):
        pen.oval(x, 0.60, x + 0.2, 0.80, fill=DARK)


def _boat(pen: Pen) -> None:
    pen.polygon((0.05, 0.68), (0.95, 0.68), (0.78, 0.90), (0.22, 0.90))
    pen.line([(0.48, 0.08), (0.48, 0.68)], 0.04, fill=DARK)
    pen.polygon((0.52, 0.10), (0.88, 0.60), (0.52, 0.60))
    pen.polygon((0.44, 0.20), (0.16, 0.60), (0.44, 0.60), fill=PALE)


def _house(pen: Pen) -> None:
    pen.box(0.16, 0.46, 0.84, 0.92)
    pen.polygon((0.06, 0.48), (0.50, 0.10), (0.94, 0.48), fill=DARK)
    pen.box(0.42, 0.64, 0.58, 0.92, fill=(94, 64, 44))
    for x in (0.22, 0.64):
        pen.box(x, 0.54, x + 0.14, 0.68, fill=PALE)


def _tree(pen: Pen) -> None:
    pen.box(0.44, 0.76, 0.56, 0.96, fill=(94, 64, 44))
    for top, width in ((0.04, 0.22), (0.22, 0.30), (0.42, 0.40)):
        pen.polygon((0.50, top), (0.50 + width, top + 0.36), (0.50 - width, top + 0.36))


def _flower(pen: Pen) -> None:
    pen.line([(0.50, 0.50), (0.50, 0.98)], 0.05, fill=(70, 120, 60))
    for k in range(6):
        x, y = 0.50 + 0.21 * math.cos(k * math.pi / 3), 0.36 + 0.21 * math.sin(k * math.pi / 3)
        pen.oval(x - 0.14, y - 0.14, x + 0.14, y + 0.14)
    pen.oval(0.40, 0.26, 0.60, 0.46, fill=(248, 214, 90))


def _cup(pen: Pen) -> None:
    pen.polygon((0.14, 0.24), (0.70, 0.24), (0.63, 0.86), (0.21, 0.86))
    pen.ring(0.60, 0.34, 0.92, 0.68)
    pen.oval(0.14, 0.18, 0.70, 0.31, fill=DARK)


def _ball(pen: Pen) -> None:
    pen.oval(0.10, 0.10, 0.90, 0.90)
    pen.oval(0.26, 0.22, 0.42, 0.36, fill=PALE)


def _gift(pen: Pen) -> None:
    pen.box(0.12, 0.36, 0.88, 0.92)
    pen.box(0.45, 0.36, 0.55, 0.92, fill=PALE)
    pen.box(0.12, 0.52, 0.88, 0.60, fill=PALE)
    pen.ring(0.26, 0.14, 0.52, 0.38, fill=PALE)
    pen.ring(0.48, 0.14, 0.74, 0.38, fill=PALE)


def _rabbit(pen: Pen) -> None:
    pen.oval(0.22, 0.46, 0.84, 0.94)
    pen.oval(0.14, 0.32, 0.50, 0.64)
    pen.oval(0.20, 0.02, 0.31, 0.42)
    pen.oval(0.34, 0.02, 0.45, 0.42)
    pen.oval(0.76, 0.66, 0.92, 0.82, fill=PALE)
    pen.oval(0.22, 0.42, 0.28, 0.48, fill=DARK)


def _fish(pen: Pen) -> None:
    pen.oval(0.20, 0.28, 0.96, 0.74)
    pen.polygon((0.28, 0.51), (0.03, 0.26), (0.03, 0.76))
    pen.polygon((0.46, 0.34), (0.66, 0.12), (0.74, 0.34))
    pen.oval(0.78, 0.42, 0.86, 0.50, fill=DARK)


SHAPES: dict[str, Callable[[Pen], None]] = {
    "car": _car,
    "boat": _boat,
    "house": _house,
    "tree": _tree,
    "flower": _flower,
    "cup": _cup,
    "ball": _ball,
    "gift": _gift,
    "rabbit": _rabbit,
    "fish": _fish,
}
