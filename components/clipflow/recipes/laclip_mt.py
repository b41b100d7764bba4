"""LaCLIP-MT: each image against its caption and all of its rewrites in every step.

InfoNCE per version of the text, with negatives of the same version, averaged over the versions: `clip` with
a number for `pretrain.texts`, by its name.

Source: Fan et al. 2023, *Improving CLIP Training with Language Rewrites* (arXiv:2305.20088), the
multi-text variant.
"""

from __future__ import annotations

from pydantic import Field

from clipflow.recipes import TextPolicy, clip


class LaClipMt(clip.Clip):
    """CLIP with several positive texts per image; text encoding costs `num_texts` times as much."""

    status = "toy-gain"

    num_texts: int = Field(ge=1)
    """The caption and how many rewrites besides; a pair with fewer shows its caption again."""

    @property
    def own_texts(self) -> TextPolicy:
        """The caption and its rewrites, always `num_texts` of them."""
        return self.num_texts
