"""The distortions by which views of one image are made unlike each other."""

from __future__ import annotations

import random

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter
from torchvision.transforms import functional

from clipflow.model.crops import cropped

CROP_SCALE_MIN = 0.08
JITTER_PROBABILITY = 0.8
BRIGHTNESS = CONTRAST = SATURATION = 0.4
HUE = 0.1
"""Largest changes, as torchvision's ColorJitter counts them."""
GREY_PROBABILITY = 0.2
BLUR_PROBABILITY = 0.5
BLUR_SIGMA_PX = 0.1, 2.0
FLIP_PROBABILITY = 0.5


def distorted_view(
    image: Image.Image, size_px: int, rng: random.Random
) -> UInt8[np.ndarray, "size size 3"]:
    """A random resized crop with its colours jittered or gone, blurred and mirrored, each by chance.

    Source: Chen et al. 2020 (SimCLR, arXiv:2002.05709), section 3 and appendix A, for the distortions; the
    numbers are those of MoCo v2's and SLIP's code, as recalled.
    """
    view = Image.fromarray(cropped(image, size_px, CROP_SCALE_MIN, rng))
    if rng.random() < JITTER_PROBABILITY:
        view = jittered(view, rng)
    if rng.random() < GREY_PROBABILITY:
        view = view.convert("L").convert("RGB")
    if rng.random() < BLUR_PROBABILITY:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_SIGMA_PX)))
    if rng.random() < FLIP_PROBABILITY:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)


def jittered(image: Image.Image, rng: random.Random) -> Image.Image:
    """Brightness, contrast, saturation and hue changed by random amounts, in random order."""
    changes = [
        (functional.adjust_brightness, rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)),
        (functional.adjust_contrast, rng.uniform(1 - CONTRAST, 1 + CONTRAST)),
        (functional.adjust_saturation, rng.uniform(1 - SATURATION, 1 + SATURATION)),
        (functional.adjust_hue, rng.uniform(-HUE, HUE)),
    ]
    for change, amount in rng.sample(changes, len(changes)):
        image = change(image, amount)
    return image
