"""Any image file -> bytes of an upright RGB JPEG without metadata, or why it is not taken."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from PIL import ExifTags, Image
from pydantic import Field, model_validator

from clipflow.catalogue import Section
from clipflow.ingest.jpeg import without_metadata

MAX_SIDE_PX = 65_500
"""The widest and highest JPEG that libjpeg writes."""
MAX_PIXELS = 178_956_970
"""Beyond these Pillow refuses by itself; at half of them it warns, which is needless by `max_pixels`."""
HASH_PX = 16
"""Side of the grid of the difference hash: 256 bits in 4 words."""
NUM_WORDS = HASH_PX * HASH_PX // 64
MIN_CONTRAST = 2.0
"""Standard deviation, of 255, of the grid of the difference hash; below it there is only noise."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnusableImageError(Exception):
    """Why an image can't be used; the text becomes the reason in the manifest."""


class ImageRules(Section):
    """Which images are taken, and how they are stored."""

    formats: list[Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"]]
    """Formats that are taken, whatever a file is called; decoders of others never see it."""
    min_side_px: Annotated[int, Field(ge=1)] | None
    """Smallest shorter side; null: any."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] | None
    """Largest longer side over shorter side; null: any."""
    max_pixels: int = Field(ge=1, le=MAX_PIXELS)
    """Most pixels; larger images are refused by their header, before they are decoded or enlarged."""
    animated: Literal["refuse", "first_frame"]
    """What becomes of images with several frames."""
    resize: Literal["keep", "shorter_side", "center_crop"]
    """`shorter_side`: until that is `size_px`; `center_crop`: that, and cut to a square; `keep`: not."""
    size_px: Annotated[int, Field(ge=1)] | None
    """What the shorter side becomes; null where `resize` is keep."""
    resample: Literal["box", "hamming", "lanczos"]
    """How pixels are averaged where an image shrinks: `box` is the area's mean, as in img2dataset;
    `hamming` is sharper and takes a fifth longer, `lanczos` sharpest and twice as long."""
    only_shrink: bool
    """Leave images alone whose shorter side is below `size_px` already."""
    quality: int = Field(ge=1, le=95)
    """JPEG quality of what is encoded; images that already are RGB JPEGs of the right size are not."""

    @model_validator(mode="after")
    def _has_size(self) -> ImageRules:
        if (self.resize == "keep") != (self.size_px is None):
            raise ValueError(
                f"resize '{self.resize}' and size_px {self.size_px} don't fit: give a size in px, or null"
                " with keep"
            )
        return self


@dataclass(frozen=True, slots=True)
class CleanImage:
    """An image as it is stored."""

    jpeg: bytes
    width_px: int
    height_px: int
    source_width_px: int
    source_height_px: int
    digest: int
    """64 bits of SHA-256 of what is stored: equal images agree in it."""
    hash: tuple[int, ...]
    """Difference hash, NUM_WORDS words of 64 bits: similar images differ in few bits."""


def clean(data: bytes, rules: ImageRules) -> CleanImage:
    """The image as an upright RGB JPEG of the wanted size, without EXIF, XMP, IPTC and comments.

    Grey, palette, CMYK and 16-bit images are converted, transparent ones are laid on white, and those
    that EXIF says are turned are turned back. A JPEG that needs none of this keeps its pixels bit for
    bit. Raises UnusableImageError for what a rule forbids, and for what doesn't decode to the last row.
    """
    try:
        return _clean(data, rules)
    except UnusableImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImageError("too many pixels") from None
    except Exception:  # damaged and hostile files make Pillow raise nearly anything
        raise UnusableImageError("unreadable image") from None


def fingerprint(data: bytes) -> tuple[int, ...]:
    """The difference hash of an image as it is stored. Raises UnusableImageError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _difference_hash(image, data)
    except Exception:
        raise UnusableImageError("unreadable image") from None


def _clean(data: bytes, rules: ImageRules) -> CleanImage:
    with Image.open(io.BytesIO(data), formats=tuple(rules.formats)) as image:
        _check(image, rules)
        turn = _turn(image)
        source = _turned(image.size, turn)
        size = _size(source, rules)
        if size[0] * size[1] > rules.max_pixels:
            raise UnusableImageError("too many pixels")  # a thin image, enlarged
        if size != source:
            # Decoded at a half, a quarter or an eighth, as long as that is not below the wanted size.
            image.draft(None, _turned(size, turn))
        image.load()
        crop = rules.resize == "center_crop" and size[0] != size[1]
        is_rgb_jpeg = image.format in ("JPEG", "MPO") and image.mode == "RGB"
        if is_rgb_jpeg and turn is None and size == source and not crop:
            jpeg = without_metadata(data)
            if jpeg is not None:
                return _cleaned(jpeg, image, source)
        profile = image.info.get("icc_profile") if image.mode == "RGB" else None
        rgb = (
            _on_white(image) if image.has_transparency_data and not _is_deep(image) else _rgb(image)
        )
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb.size != size:
        shrinks = size < rgb.size
        rgb = rgb.resize(size, Image.Resampling[rules.resample.upper() if shrinks else "BICUBIC"])
    if crop:
        rgb = _centre(rgb)
    if max(rgb.size) > MAX_SIDE_PX:
        raise UnusableImageError("too large for JPEG")
    out = io.BytesIO()
    rgb.save(out, "JPEG", quality=rules.quality, comment=b"", icc_profile=profile)
    return _cleaned(out.getvalue(), rgb, source)


def _check(image: Image.Image, rules: ImageRules) -> None:
    """Raise UnusableImageError for what the header says already."""
    width, height = image.size
    if width * height > rules.max_pixels:
        raise UnusableImageError("too many pixels")
    if rules.min_side_px is not None and min(width, height) < rules.min_side_px:
        raise UnusableImageError("too small")
    if rules.max_aspect_ratio is not None and (
        max(width, height) > rules.max_aspect_ratio * min(width, height)
    ):
        raise UnusableImageError("too long or too wide")
    # MPO is a JPEG with a second view or a depth map behind it, as phones write them: one image.
    if (
        rules.animated == "refuse"
        and image.format != "MPO"
        and getattr(image, "is_animated", False)
    ):
        raise UnusableImageError("animated")


def _size(source: tuple[int, int], rules: ImageRules) -> tuple[int, int]:
    """Width and height (px) after resizing, before cropping."""
    shorter = min(source)
    if rules.size_px is None or (rules.only_shrink and shorter <= rules.size_px):
        return source
    scale = rules.size_px / shorter
    width, height = (max(rules.size_px, round(side * scale)) for side in source)
    return width, height


def _centre(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _cleaned(jpeg: bytes, image: Image.Image, source: tuple[int, int]) -> CleanImage:
    digest = int.from_bytes(hashlib.sha256(jpeg).digest()[:8], "big")
    return CleanImage(jpeg, *image.size, *source, digest, _difference_hash(image, jpeg))


def _difference_hash(image: Image.Image, jpeg: bytes) -> tuple[int, ...]:
    """Which of two neighbours in a row is brighter, on a grid of HASH_PX rows (Krawetz 2013, dHash).

    An image without contrast has only noise to say there, so that it equals none but its like.
    """
    grey = image.convert("L").resize((HASH_PX + 1, HASH_PX), Image.Resampling.BILINEAR)
    grid = np.asarray(grey, np.int16)
    if grid.std() < MIN_CONTRAST:
        words = np.frombuffer(hashlib.sha256(jpeg).digest(), np.uint64)[:NUM_WORDS]
    else:
        words = np.packbits(grid[:, 1:] > grid[:, :-1]).view(np.uint64)
    return tuple(words.tolist())


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation, what makes an image upright."""


def _turn(image: Image.Image) -> Image.Transpose | None:
    if image.format == "TIFF":  # which Pillow turns itself while it decodes
        return None
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 0))
    except Exception:  # damaged EXIF says nothing about an image that decodes
        return None


def _turned(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    sideways = (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_270,
    )
    return (size[1], size[0]) if turn in sideways else size


def _is_deep(image: Image.Image) -> bool:
    """Grey of 16 bits, of which Pillow would make white; a transparent grey is not known to it there."""
    return image.mode.startswith("I;16") or image.mode == "I"


def _rgb(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB")
