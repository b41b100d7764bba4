"""CoCa: CLIP's loss, and a decoder that writes each text by its image.

The text tower reads a text causally and without the image; a class token after it stands for the whole, and
is what CLIP's loss contrasts. A decoder takes the tower's words, looks at what the image tower pools of its
patches, and tells the next token of each. The loss is `contrast` times CLIP's plus `captioning` times minus
the mean log-likelihood of all tokens. The decoder is part of the checkpoint, as open_clip reads it.

Image and decoder are open_clip's CoCa: other than in the paper, one pooling of the patches serves both
losses, its first token for the contrast and the others for the decoder.

Source: Yu et al. 2022, *CoCa: Contrastive Captioners are Image-Text Foundation Models* (arXiv:2205.01917),
section 3.2.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from clipflow.model.captioning import Captioning
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Coca(Recipe):
    """Contrast and captioning together, on an architecture with a decoder."""

    status = "mechanism-verified"
    has_decoder: ClassVar[bool] = True

    contrast: float = Field(ge=0)
    """Weight of CLIP's loss. CoCa: 1."""
    captioning: float = Field(ge=0)
    """Weight of the captioning loss. CoCa: 2."""

    def objective(self, towers: Towers) -> nn.Module:
        """InfoNCE between images and texts, and the likelihood of texts by images."""
        return Captioning(towers, self.contrast, self.captioning)
