"""FILIP: images and texts compared patch by word.

The similarity of an image to a text is the mean over its patches of the largest cosine with one of the
text's words; that of a text to an image is the mean over its words of the largest cosine with one of the
image's patches. InfoNCE is taken over an image's similarities to all texts and over a text's to all images.
Padding is no word, and the marks of start and end are. The checkpoint is compared in the same way: its
pooled embeddings, which the towers also have, are not trained to be.

Left out are the paper's savings in communication: fewer dimensions, half precision, a quarter of the
tokens.

Source: Yao et al. 2021, *FILIP: Fine-grained Interactive Language-Image Pre-Training* (arXiv:2111.07783),
section 3.1.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.token_embeddings import check, embed_image_tokens, embed_text_tokens
from clipflow.model.token_wise import TokenWise, token_wise_info_nce
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Filip(Recipe):
    """Token-wise late interaction; needs a ViT."""

    status = "mechanism-verified"

    def objective(self, towers: Towers) -> nn.Module:
        """InfoNCE by late interaction. Raises ParamsError for towers without tokens."""
        check(towers, self.name)
        return TokenWiseContrastive(towers)


class TokenWiseContrastive(Contrastive):
    """Towers with InfoNCE between all their tokens."""

    def __init__(self, towers: Towers) -> None:
        super().__init__(towers)
        self.similarity = TokenWise(towers.dim)

    def embed(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch size"], Float[Tensor, "batch texts other"]]:
        """All patches, and all words."""
        image = embed_image_tokens(self.towers, batch.images, batch.patches)
        text = embed_text_tokens(self.towers, batch.texts)
        return self.similarity.embed(image), self.similarity.embed(text)

    def version_loss(
        self, image: Float[Tensor, "batch size"], text: Float[Tensor, "batch other"]
    ) -> Float[Tensor, ""]:
        """InfoNCE of images and one version of their texts."""
        tokens = self.similarity.tokens
        return token_wise_info_nce(tokens(image), tokens(text), self.towers.scale)
