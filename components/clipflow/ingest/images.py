"""Any image file -> bytes of an RGB JPEG."""

from __future__ import annotations

import io

from PIL import ExifTags, Image, ImageOps

MAX_SIDE_PX = 65_500
"""The widest and highest JPEG that libjpeg writes."""


class UnusableImageError(Exception):
    """Why an image can't be used; the text becomes the reason in the manifest."""


def rgb_jpeg(data: bytes, quality: int) -> bytes:
    """The image as an upright RGB JPEG; bytes that already are one are returned unchanged.

    Grey, palette, CMYK and 16-bit images are converted, transparent ones are laid on white, and those
    that EXIF says are turned are turned back. Raises UnusableImageError for what doesn't decode to the
    last row.
    """
    try:
        return _converted(data, quality)
    except UnusableImageError:
        raise
    except Image.DecompressionBombError:
        raise UnusableImageError("too many pixels") from None
    except Exception:  # damaged and hostile files make Pillow raise nearly anything
        raise UnusableImageError("unreadable image") from None


def _converted(data: bytes, quality: int) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        turned = _is_turned(image)
        if image.format == "JPEG" and image.mode == "RGB" and not turned:
            return data
        upright = ImageOps.exif_transpose(image) if turned else image
        rgb = _on_white(upright) if upright.has_transparency_data else _rgb(upright)
    if max(rgb.size) > MAX_SIDE_PX:
        raise UnusableImageError("too large for JPEG")
    out = io.BytesIO()
    rgb.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _is_turned(image: Image.Image) -> bool:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF says nothing about an image that decodes
        return False
    return orientation in range(2, 9)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB")
