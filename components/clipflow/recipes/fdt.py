"""FDT: images and texts as sums of the codes that their tokens ask for.

Both modalities share a codebook. The relevance of a code to a sample is the largest product of it with one
of the sample's tokens; the sparsemax of relevance / code temperature weighs the codes, most by exactly 0;
the embedding is their weighted sum, made one long, and the loss is InfoNCE between these. The code
temperature falls by the same factor in each step, from its first value to its last, so that at first many
codes are learned and in the end few are used. The checkpoint has the codebook and its last temperature.

Tokens are projected into the space of the codes by the towers' own last layer, where the authors' code, as
recalled, has an MLP of its own. Padding has no relevance; there it counts with a product of 0.

Source: Chen et al. 2023, *Revisiting Multimodal Representation in Contrastive Learning: From Patch and
Token Embeddings to Finite Discrete Tokens* (arXiv:2303.14865), section 3.
"""

from __future__ import annotations

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from clipflow.model.batch import Batch
from clipflow.model.between_steps import BetweenSteps
from clipflow.model.codebook import Codebook
from clipflow.model.contrastive import Contrastive
from clipflow.model.token_embeddings import check, embed_image_tokens, embed_text_tokens
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class Fdt(Recipe):
    """Finite discrete tokens; needs a ViT."""

    status = "mechanism-verified"

    num_codes: int = Field(ge=2)
    """Codes in the codebook."""
    code_temperature_init: float = Field(gt=0)
    """What relevances are divided by in the first step; the lower, the fewer codes are used."""
    code_temperature_last: float = Field(gt=0)
    """What they are divided by in the last step, and in the checkpoint."""

    def objective(self, towers: Towers) -> nn.Module:
        """InfoNCE between sums of codes. Raises ParamsError for towers without tokens."""
        check(towers, self.name)
        temperatures = self.code_temperature_init, self.code_temperature_last
        return CodebookContrastive(towers, self.num_codes, temperatures)


class CodebookContrastive(Contrastive):
    """Towers and codebook with InfoNCE."""

    extra_forwards = 0.0

    def __init__(self, towers: Towers, num_codes: int, temperatures: tuple[float, float]) -> None:
        super().__init__(towers)
        self.similarity = Codebook(num_codes, towers.dim)
        self.similarity.temperature.fill_(temperatures[0])
        self.temperatures = temperatures

    def before_step(self, run: BetweenSteps) -> None:
        """Lower the code temperature."""
        first, last = self.temperatures
        share = run.step / max(1, run.num_steps - 1)
        self.similarity.temperature.fill_(first * (last / first) ** share)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be minimised, and `logit_scale` and `code_temperature` beside it."""
        temperature = self.similarity.temperature.clone()
        return {**super().forward(batch), "code_temperature": temperature}

    def embed(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch texts dim"]]:
        """Sums of codes."""
        image = embed_image_tokens(self.towers, batch.images, batch.patches)
        text = embed_text_tokens(self.towers, batch.texts)
        return self.similarity.embed(image), self.similarity.embed(text)
