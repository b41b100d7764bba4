"""Common corruptions of images at five severities, made on the fly.

Source: Hendrycks and Dietterich 2019 (arXiv:1903.12261), section 4.1; strengths are those of their
ImageNet-C, for images of the size that the model sees. Of its 15 corruptions, those that need no pictures
of their own are here, and Gaussian blur of their extra four.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Corruption = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "gaussian_blur", "brightness",
    "contrast", "pixelate", "jpeg_compression",
]  # fmt: skip
Pixels = NDArray[np.float32]
"""[height, width, 3], 0 to 1."""

STRENGTHS: dict[Corruption, tuple[float, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation
    "shot_noise": (60, 25, 12, 5, 3),  # photons at full brightness
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of values
    "defocus_blur": (3, 4, 6, 8, 10),  # radius in px
    "gaussian_blur": (1, 2, 3, 4, 6),  # standard deviation in px
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added to the value of HSV
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # share that is left
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),  # share of the side
    "jpeg_compression": (25, 18, 15, 10, 7),  # quality
}
REFERENCE_PX = 224
"""Lengths above are for images of this side, and scaled to others."""


def corrupted(image: Image.Image, kind: Corruption, severity: int, number: int) -> Image.Image:
    """The RGB image, worse. severity: 1 to 5. number: of the sample, which seeds its noise."""
    strength = STRENGTHS[kind][severity - 1]
    if kind in _LENGTHS:
        strength *= min(image.size) / REFERENCE_PX
    if kind in _ON_IMAGES:
        return _ON_IMAGES[kind](image, strength)
    generator = np.random.default_rng([zlib.crc32(kind.encode()), severity, number])
    pixels: Pixels = np.asarray(image, np.float32) / np.float32(255)
    found = np.clip(_ON_PIXELS[kind](pixels, strength, generator), 0, 1)
    return Image.fromarray((found * 255).round().astype(np.uint8))


def _impulse(pixels: Pixels, share: float, generator: np.random.Generator) -> Pixels:
    drawn = generator.random(pixels.shape, np.float32)
    return np.where(drawn < share / 2, 0, np.where(drawn > 1 - share / 2, 1, pixels))


def _brighter(pixels: Pixels, added: float, _: np.random.Generator) -> Pixels:
    """Value up, hue and saturation as they are: all three channels by the same factor."""
    value = pixels.max(axis=2, keepdims=True)
    scale = np.minimum(value + added, 1) / np.maximum(value, 1e-6)
    return np.where(value > 0, pixels * scale, min(added, 1))


def _defocused(image: Image.Image, radius: float) -> Image.Image:
    """Averaged over a disk."""
    from scipy.signal import oaconvolve

    reach = max(1, int(np.ceil(radius)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    pixels = np.pad(
        np.asarray(image, np.float32), ((reach, reach), (reach, reach), (0, 0)), "reflect"
    )
    found = oaconvolve(pixels, (disk / disk.sum())[:, :, None], mode="valid", axes=(0, 1))
    return Image.fromarray(np.clip(found, 0, 255).round().astype(np.uint8))


def _pixelated(image: Image.Image, share: float) -> Image.Image:
    small = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def _compressed(image: Image.Image, quality: float) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=int(quality))
    return Image.open(data).convert("RGB")


_LENGTHS = {"defocus_blur", "gaussian_blur"}
_ON_IMAGES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "defocus_blur": _defocused,
    "gaussian_blur": lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
    "pixelate": _pixelated,
    "jpeg_compression": _compressed,
}
_ON_PIXELS: dict[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "gaussian_noise": lambda x, sigma, rng: x + sigma * rng.standard_normal(x.shape, np.float32),
    "shot_noise": lambda x, photons, rng: (rng.poisson(x * photons) / photons).astype(np.float32),
    "impulse_noise": _impulse,
    "brightness": _brighter,
    "contrast": lambda x, left, _: (x - x.mean(axis=(0, 1))) * left + x.mean(axis=(0, 1)),
}
