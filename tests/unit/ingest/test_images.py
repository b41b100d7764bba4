"""Any image file becomes an RGB JPEG, or a reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from clipflow.ingest.images import UnusableImageError, rgb_jpeg
from fakes.artifacts import jpeg


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


@pytest.mark.parametrize(
    ("mode", "colour", "kind"),
    [("L", 200, "PNG"), ("P", 0, "PNG"), ("CMYK", (0, 255, 255, 0), "JPEG"), ("1", 1, "PNG"),
     ("LA", (90, 255), "PNG"), ("RGBA", (9, 9, 9, 255), "PNG"), ("I;16", 40000, "PNG")],
)  # fmt: skip
def test_modes(mode: str, colour: object, kind: str) -> None:
    decoded(rgb_jpeg(encoded(Image.new(mode, (20, 10), colour), kind), 90))  # type: ignore[arg-type]


def test_grey_keeps_its_value() -> None:
    eight = decoded(rgb_jpeg(encoded(Image.new("L", (8, 8), 100), "PNG"), 95))
    sixteen = decoded(rgb_jpeg(encoded(Image.new("I;16", (8, 8), 100 * 256), "PNG"), 95))
    for image in (eight, sixteen):
        assert np.asarray(image).mean() == pytest.approx(100, abs=2)


def test_transparent_pixels_are_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert np.asarray(decoded(rgb_jpeg(encoded(clear, "PNG"), 95))).min() > 250


def test_rgb_jpegs_are_kept_byte_for_byte() -> None:
    assert rgb_jpeg(jpeg(), 50) == jpeg()


@pytest.mark.parametrize("data", [b"", b"no image", jpeg(size_px=200)[:-300]])
def test_unreadable(data: bytes) -> None:
    with pytest.raises(UnusableImageError, match="unreadable image"):
        rgb_jpeg(data, 90)


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnusableImageError, match="too many pixels"):
        rgb_jpeg(jpeg(size_px=64), 90)
