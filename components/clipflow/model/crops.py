"""Random resized crops, with the random numbers of a given generator."""

from __future__ import annotations

import math
import random

import numpy as np
from jaxtyping import UInt8
from PIL import Image

ASPECT_RATIOS = 3 / 4, 4 / 3
DRAFT_GAP = 2
"""A crop keeps at least so many times the pixels it is resized to, which hides how it was decoded."""


def cropped(
    image: Image.Image, size_px: int, scale_min: float, rng: random.Random
) -> UInt8[np.ndarray, "size size 3"]:
    """A random part of an image, resized to a square. A JPEG not yet decoded is so as far as is needed.

    Raises OSError, SyntaxError or ValueError for what is no image.
    """
    full_width, full_height = image.size
    left, top, width, height = crop_box(full_width, full_height, scale_min, rng)
    # A large JPEG decodes at 1/2, 1/4 or 1/8 for less work.
    left_px = DRAFT_GAP * size_px
    image.draft("RGB", (full_width * left_px // width, full_height * left_px // height))
    x, y = image.width / full_width, image.height / full_height
    box = (left * x, top * y, (left + width) * x, (top + height) * y)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))


def crop_box(
    full_width: int, full_height: int, scale_min: float, rng: random.Random
) -> tuple[int, int, int, int]:
    """Left, top, width and height in px of a random resized crop.

    Its area is uniform between `scale_min` and 1 of the image's, the logarithm of its aspect ratio between
    those of 3:4 and 4:3; where ten draws don't fit, the largest central one of the nearest ratio.

    Source: Szegedy et al. 2015 (arXiv:1409.4842), section 6, with the bounds that CLIP's trainers use.
    """
    for _ in range(10):
        area = full_width * full_height * rng.uniform(scale_min, 1)
        ratio = math.exp(rng.uniform(*map(math.log, ASPECT_RATIOS)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left, top = rng.randint(0, full_width - width), rng.randint(0, full_height - height)
            return left, top, width, height
    narrowest, widest = ASPECT_RATIOS
    width = min(full_width, max(1, round(full_height * widest)))
    height = min(full_height, max(1, round(full_width / narrowest)))
    return (full_width - width) // 2, (full_height - height) // 2, width, height
