"""FLIP: CLIP on a random part of each image's patches, then a short tuning on whole images.

Each image loses the same share of its patches, `masking`, drawn anew in each epoch; the image tower sees
the others with their positions, and is that much cheaper. Texts are whole: the paper finds that masking
them costs accuracy. The loss is CLIP's. The last steps are taken on whole images, at a small learning rate,
so that training ends on what evaluation shows. With a masking of 0 and no tuning this is CLIP.

Source: Li et al. 2023, *Scaling Language-Image Pre-training via Masking* (arXiv:2212.00794), section 3.
"""

from __future__ import annotations

from pydantic import Field

from clipflow.recipes import Phase, Tuning, clip


class Flip(clip.Clip):
    """InfoNCE on masked images; needs a ViT."""

    status = "toy-gain"

    masking: float = Field(ge=0, lt=1)
    """Share of patches that the first phase leaves out. FLIP: 0.5 or 0.75."""
    tuning: Tuning
    """The last phase, on whole images."""

    def phases(self, whole: Phase) -> list[Phase]:
        """Masked, then whole."""
        return self.tuning.after(whole._replace(patch_dropout=self.masking))
