"""Any image file becomes an RGB JPEG, or a reason."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

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


@pytest.mark.parametrize("error", [TypeError, KeyError, struct.error, ZeroDivisionError])
def test_whatever_pillow_raises(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnusableImageError, match="unreadable image"):
        rgb_jpeg(jpeg(), 90)


def test_wider_than_a_jpeg_can_be() -> None:
    with pytest.raises(UnusableImageError, match="too large for JPEG"):
        rgb_jpeg(encoded(Image.new("RGB", (66_000, 1)), "PNG"), 90)


def with_orientation(value: int) -> bytes:
    """Left half black, right half white, 40 x 20 px as stored."""
    image = Image.new("RGB", (40, 20))
    image.paste("white", (20, 0, 40, 20))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_photos_are_upright() -> None:
    turned = decoded(rgb_jpeg(with_orientation(6), 95))  # stored a quarter turn to the left
    assert turned.size == (20, 40)
    assert np.asarray(turned)[:15].max() < 50
    assert np.asarray(turned)[25:].min() > 200
    again = rgb_jpeg(encoded(turned, "JPEG"), 95)
    assert decoded(again).size == (20, 40)


@pytest.mark.parametrize("value", [0, 1, 9])
def test_photos_that_are_upright_are_kept_byte_for_byte(value: int) -> None:
    assert rgb_jpeg(with_orientation(value), 50) == with_orientation(value)


def test_damaged_exif_is_no_reason_to_leave_an_image_out() -> None:
    damaged = with_orientation(6).replace(b"Exif\0\0MM", b"Exif\0\0??")
    assert damaged != with_orientation(6)
    assert rgb_jpeg(damaged, 50) == damaged


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnusableImageError, match="too many pixels"):
        rgb_jpeg(jpeg(size_px=64), 90)
