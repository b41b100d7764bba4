"""LaCLIP: each image against its caption or one of its rewrites, drawn anew in every step.

The draw is uniform over the original and its M rewrites; a drawn text of fewer than two words gives
way to the original. The loss is CLIP's.

Source: Fan et al. 2023, *Improving CLIP Training with Language Rewrites* (arXiv:2305.20088),
section 3.3, equation 3.
"""

from __future__ import annotations

import random

from clipflow.recipes import clip


class LaClip(clip.Clip):
    """CLIP with language rewrites as text augmentation."""

    def texts(self, caption: str, rewrites: list[str], rng: random.Random) -> list[str]:
        """One text, drawn uniformly from the caption and its rewrites."""
        text = rng.choice([caption, *rewrites])
        return [text if len(text.split()) >= 2 else caption]
