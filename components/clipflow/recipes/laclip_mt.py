"""LaCLIP-MT: each image against its caption and all of its rewrites in every step.

InfoNCE per version of the text, with negatives of the same version, averaged over the versions.

Source: Fan et al. 2023, *Improving CLIP Training with Language Rewrites* (arXiv:2305.20088), the
multi-text variant.
"""

from __future__ import annotations

import random

from pydantic import Field

from clipflow.recipes import clip


class LaClipMt(clip.Clip):
    """CLIP with several positive texts per image; text encoding costs `num_texts` times as much."""

    num_texts: int = Field(ge=1)
    """The caption and how many rewrites besides; a pair with fewer shows its caption again."""

    def texts(self, caption: str, rewrites: list[str], rng: random.Random) -> list[str]:
        """The caption and its rewrites, always `num_texts` of them."""
        versions = [caption, *rewrites][: self.num_texts]
        return versions + [caption] * (self.num_texts - len(versions))
