"""LaSLIP: SLIP, and each image against its caption or one of its rewrites, drawn anew in every step.

This is `slip` with `pretrain.texts: drawn`, by its name: the second model that LaCLIP's authors train with
language rewrites, and what they call it.

Source: Fan et al. 2023, *Improving CLIP Training with Language Rewrites* (arXiv:2305.20088), section 4.
"""

from __future__ import annotations

from clipflow.recipes import TextPolicy, slip


class LaSlip(slip.Slip):
    """SLIP with language rewrites as text augmentation."""

    status = "toy-gain"

    @property
    def own_texts(self) -> TextPolicy:
        """One text, drawn from the caption and its rewrites."""
        return "drawn"
