"""Any image file -> bytes of an RGB JPEG."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError


class UnusableImageError(Exception):
    """Why an image can't be used; the text becomes the reason in the manifest."""


def rgb_jpeg(data: bytes, quality: int) -> bytes:
    """The image as an RGB JPEG; bytes that already are one are returned unchanged.

    Grey, palette, CMYK and 16-bit images are converted, transparent ones are laid on white.
    Raises UnusableImageError for what doesn't decode to the last row.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.format == "JPEG" and image.mode == "RGB":
                return data
            rgb = _on_white(image) if image.has_transparency_data else _rgb(image)
    except Image.DecompressionBombError:
        raise UnusableImageError("too many pixels") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        raise UnusableImageError("unreadable image") from None
    out = io.BytesIO()
    rgb.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB")
