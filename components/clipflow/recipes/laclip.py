"""LaCLIP: each image against its caption or one of its rewrites, drawn anew in every step.

The draw is uniform over the original and its M rewrites; a drawn text of fewer than two words gives
way to the original. The loss is CLIP's: this is `clip` with `pretrain.texts: drawn`, by its name.

Source: Fan et al. 2023, *Improving CLIP Training with Language Rewrites* (arXiv:2305.20088),
section 3.3, equation 3.
"""

from __future__ import annotations

from clipflow.recipes import TextPolicy, clip


class LaClip(clip.Clip):
    """CLIP with language rewrites as text augmentation."""

    status = "toy-gain"

    @property
    def own_texts(self) -> TextPolicy:
        """One text, drawn from the caption and its rewrites."""
        return "drawn"
