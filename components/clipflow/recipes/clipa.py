"""CLIPA: CLIP on small images and short texts, then a short tuning on full ones.

Images are resized, so that the image tower has fewer tokens that still show all of it: with half the side a
quarter as many. Their positions are those of the full image, interpolated; the authors' code has fixed
sines instead, made for either size. Longer texts are cut to `text_tokens`: to their first words, a run of
words or random ones. The larger a model, the shorter its inputs may be for the same accuracy: the inverse
scaling law. The loss is CLIP's. The last steps are taken on full images and texts. With full images and
texts and no tuning this is CLIP.

Source: Li et al. 2023, *An Inverse Scaling Law for CLIP Training* (arXiv:2305.07017), sections 3 and 4.
Its masking of images is `flip`; its choice of words by a tagger, nouns first, is not here.
"""

from __future__ import annotations

from pydantic import Field

from clipflow.recipes import Phase, Shortening, Tuning, clip


class Clipa(clip.Clip):
    """InfoNCE on fewer tokens; needs a ViT and a causal text tower."""

    status = "toy-gain"

    image_side: float = Field(gt=0, le=1)
    """Side of the first phase's images as a share of the full one, in whole patches. CLIPA: 0.5 or less."""
    text_tokens: int = Field(ge=3)
    """Most tokens of a text in the first phase, with the marks of start and end."""
    shortening: Shortening
    """Which words of a longer text are kept: `truncate`, the first; `block`, a run; `random`, any."""
    tuning: Tuning
    """The last phase, on full images and texts."""

    def phases(self, whole: Phase) -> list[Phase]:
        """Reduced, then full."""
        reduced = whole._replace(
            patch_dropout=0.0,
            image_side=self.image_side,
            text_tokens=self.text_tokens,
            shortening=self.shortening,
        )
        return self.tuning.after(reduced)
