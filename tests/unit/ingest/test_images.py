"""Any image file becomes an RGB JPEG, or a reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from clipflow.ingest.images import ImageRules, UnusableImageError, clean
from fakes.artifacts import jpeg


def rules(**changes: object) -> ImageRules:
    return ImageRules.model_validate(
        {"formats": ["JPEG", "PNG", "GIF", "WEBP", "TIFF"], "min_side_px": None, "max_aspect_ratio": None,
         "max_pixels": 10_000_000, "animated": "first_frame", "resize": "keep", "size_px": None,
         "resample": "hamming",
         "only_shrink": True, "quality": 90, **changes}
    )  # fmt: skip


def rgb_jpeg(data: bytes, quality: int) -> bytes:
    return clean(data, rules(quality=quality)).jpeg


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


def test_grey_of_16_bits_with_a_transparent_value_keeps_its_value() -> None:
    out = io.BytesIO()
    Image.new("I;16", (8, 8), 100 * 256).save(out, "PNG", transparency=0)
    assert np.asarray(decoded(rgb_jpeg(out.getvalue(), 95))).mean() == pytest.approx(100, abs=2)


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_all_formats_are_turned_once(kind: str, value: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    out = io.BytesIO()
    photo(48, 32).save(out, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue()))).convert("RGB")
    found = clean(out.getvalue(), rules(quality=95))
    assert (
        decoded(found.jpeg).size == upright.size == (found.source_width_px, found.source_height_px)
    )
    difference = np.asarray(decoded(found.jpeg), float) - np.asarray(upright, float)
    assert np.abs(difference).mean() < 4


def same_pixels(one: bytes, other: bytes) -> bool:
    return np.array_equal(*(np.asarray(Image.open(io.BytesIO(data))) for data in (one, other)))


@pytest.mark.parametrize("value", [0, 1, 9])
def test_photos_that_are_upright_keep_their_pixels_bit_for_bit(value: int) -> None:
    kept = rgb_jpeg(with_orientation(value), 50)
    assert same_pixels(kept, with_orientation(value))
    assert b"Exif" not in kept


def test_damaged_exif_is_no_reason_to_leave_an_image_out() -> None:
    damaged = with_orientation(6).replace(b"Exif\0\0MM", b"Exif\0\0??")
    assert damaged != with_orientation(6)
    assert same_pixels(rgb_jpeg(damaged, 50), damaged)


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnusableImageError, match="too many pixels"):
        rgb_jpeg(jpeg(size_px=64), 90)


def photo(width_px: int = 320, height_px: int = 240, seed: int = 0) -> Image.Image:
    """Something with structure at every scale."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height_px, width_px, 3))
    for cell in (4, 16, 64):
        small = rng.integers(0, 85, (height_px // cell + 1, width_px // cell + 1, 3), np.uint8)
        layer = Image.fromarray(small).resize((width_px, height_px), Image.Resampling.BICUBIC)
        image += np.asarray(layer, float)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **{"quality": 92, **how})
    return out.getvalue()


def test_metadata_goes_and_colours_stay() -> None:
    from PIL import ImageCms

    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "someone"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = as_jpeg(photo(), exif=exif, icc_profile=profile, comment=b"secret")
    data = data[:2] + b"\xff\xe1\x00\x1fhttp://ns.adobe.com/xap/1.0/\0" + data[2:] + b"trailing"
    kept = rgb_jpeg(data, 50)
    assert same_pixels(kept, data)
    for gone in (b"someone", b"secret", b"ns.adobe", b"trailing"):
        assert gone in data
        assert gone not in kept
    assert Image.open(io.BytesIO(kept)).info["icc_profile"] == profile
    encoded_anew = clean(data, rules(resize="shorter_side", size_px=100)).jpeg
    assert b"someone" not in encoded_anew
    assert b"secret" not in encoded_anew


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_metadata_goes_wherever_it_stands(how: dict[str, Any]) -> None:
    data = as_jpeg(photo(), **how)
    note = b"\xff\xfe\x00\x08secret"
    last_scan = data.rfind(b"\xff\xda")
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "someone"
    dirty = data[:last_scan] + note + data[last_scan:] + as_jpeg(photo(seed=1), exif=exif)
    assert rgb_jpeg(dirty, 50) == data


def test_segments_that_do_not_add_up_are_written_anew() -> None:
    data = as_jpeg(photo())
    odd = data[:2] + b"\xff\xff\xff" + data[2:]  # fill bytes, which the standard allows
    assert decoded(rgb_jpeg(odd, 95)).size == (320, 240)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_side_px": 241}, "too small"),
        ({"max_aspect_ratio": 1.3}, "too long or too wide"),
        ({"max_pixels": 76_799}, "too many pixels"),
        ({"formats": ["PNG"]}, "unreadable image"),
    ],
)
def test_rules_forbid(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UnusableImageError, match=reason):
        clean(as_jpeg(photo()), rules(**changes))
    clean(as_jpeg(photo()), rules(min_side_px=240, max_aspect_ratio=1.34, max_pixels=76_800))


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnusableImageError, match="too many pixels"):
        clean(bomb, rules(max_pixels=100_000_000))


def test_a_thin_image_is_not_enlarged_without_bounds() -> None:
    thin = encoded(Image.new("1", (1_000_000, 4)), "PNG")  # 563 bytes, and 49 GB at 256 px
    with pytest.raises(UnusableImageError, match="too many pixels"):
        clean(thin, rules(resize="center_crop", size_px=256, only_shrink=False))
    shrunk = clean(thin, rules(resize="center_crop", size_px=2))
    assert (shrunk.width_px, shrunk.height_px) == (2, 2)


def test_pillow_does_not_warn_of_what_is_refused_anyway() -> None:
    code = (
        "import json, sys; from clipflow.ingest.images import *\n"
        "try: clean(sys.stdin.buffer.read(), ImageRules(**json.loads(sys.argv[1])))\n"
        "except UnusableImageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, rules().model_dump_json()],
        input=encoded(Image.new("1", (10_000, 10_000)), "PNG"), capture_output=True, check=True,
    )  # fmt: skip
    assert (done.stdout.decode(), done.stderr.decode()) == ("too many pixels\n", "")


def test_animations() -> None:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    first = decoded(clean(out.getvalue(), rules()).jpeg)
    assert first.getpixel((4, 4))[0] > 200  # type: ignore[index]
    with pytest.raises(UnusableImageError, match="animated"):
        clean(out.getvalue(), rules(animated="refuse"))


@pytest.mark.parametrize("animated", ["refuse", "first_frame"])
def test_photos_with_a_second_view_are_photos(animated: str) -> None:
    out = io.BytesIO()
    photo().save(out, "MPO", save_all=True, append_images=[photo(seed=1)], quality=92)
    assert Image.open(io.BytesIO(out.getvalue())).format == "MPO"
    assert clean(out.getvalue(), rules(animated=animated)).jpeg == as_jpeg(photo())


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("how", "size"),
    [("shorter_side", (128, 96)), ("center_crop", (96, 96))],
)
def test_sizes(orientation: int, how: str, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found = clean(as_jpeg(photo(), exif=exif), rules(resize=how, size_px=96))
    if orientation == 6:
        size = size[::-1]
    assert decoded(found.jpeg).size == size == (found.width_px, found.height_px)
    assert {found.source_width_px, found.source_height_px} == {320, 240}


@pytest.mark.parametrize("how", ["shorter_side", "center_crop"])
def test_what_was_made_to_size_is_not_encoded_again(how: str) -> None:
    once = clean(as_jpeg(photo()), rules(resize=how, size_px=96)).jpeg
    assert clean(once, rules(resize=how, size_px=96)).jpeg == once


def test_small_images_are_enlarged_only_if_asked() -> None:
    data = as_jpeg(photo(64, 48))
    same = clean(data, rules(resize="shorter_side", size_px=96))
    assert same_pixels(same.jpeg, data)
    larger = clean(data, rules(resize="shorter_side", size_px=96, only_shrink=False))
    assert decoded(larger.jpeg).size == (128, 96)


def test_shrinking_keeps_what_can_be_seen() -> None:
    image = photo(1500, 1000).resize((750, 500)).resize((1500, 1000))
    found = decoded(
        clean(as_jpeg(image), rules(resize="shorter_side", size_px=256, quality=95)).jpeg
    )
    best = image.resize(found.size, Image.Resampling.LANCZOS)
    error = np.asarray(found.convert("L"), float) - np.asarray(best.convert("L"), float)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 35


def test_a_size_goes_with_resizing() -> None:
    for changes in ({"resize": "shorter_side"}, {"size_px": 256}):
        with pytest.raises(ValueError, match="don't fit"):
            rules(**changes)


def test_hashes_tell_images_apart_and_copies_not() -> None:
    def bits(one: tuple[int, ...], other: tuple[int, ...]) -> int:
        return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))

    image = photo()
    original = clean(as_jpeg(image), rules()).hash
    for copy in (as_jpeg(image, quality=40), as_jpeg(image.resize((200, 150))),
                 as_jpeg(image.point(lambda value: min(255, value + 12)))):  # fmt: skip
        assert bits(original, clean(copy, rules()).hash) <= 12
    others = [clean(as_jpeg(photo(seed=seed)), rules()).hash for seed in range(1, 20)]
    assert min(bits(original, other) for other in others) > 60


def test_flat_images_are_not_all_alike() -> None:
    red, blue = (clean(jpeg(colour, 64), rules()) for colour in ((200, 0, 0), (0, 0, 200)))
    assert red.hash != blue.hash
    assert red.hash == clean(jpeg((200, 0, 0), 64), rules()).hash


def test_what_shrinks_is_averaged_as_asked_for() -> None:
    """The finer the stripes that are left, the sharper the average."""
    pixels = np.zeros((300, 300, 3), np.uint8)
    pixels[:, np.sin(np.arange(300) * 2 * np.pi / 5) > 0] = 255
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    contrast = {}
    for resample in ("box", "hamming", "lanczos"):
        found = clean(data.getvalue(), rules(resize="shorter_side", size_px=180, resample=resample))
        contrast[resample] = np.asarray(Image.open(io.BytesIO(found.jpeg)).convert("L")).std()
    assert contrast["box"] != contrast["hamming"]
    assert contrast["hamming"] < contrast["lanczos"]
