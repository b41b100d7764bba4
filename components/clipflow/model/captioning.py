"""Towers with a contrastive loss, and a decoder that writes the texts by the images."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from clipflow.model import decoder
from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.patches import embedded
from clipflow.model.plain_towers import project
from clipflow.model.texts import Texts
from clipflow.model.tiled import num_processes, sum_over_processes
from clipflow.model.towers import Towers


class Captioning(Contrastive):
    """CLIP's loss, and minus the log-likelihood of the texts' tokens, each with a weight.

    The second is a mean over all tokens of the global batch, those of all texts of an image, from the first
    word to the end of text. It is open_clip's CoCaLoss, but that a "!" before other punctuation is learned:
    its id is that of padding, which open_clip leaves out wherever it stands.
    """

    def __init__(self, towers: Towers, contrast: float, captioning: float) -> None:
        super().__init__(towers)
        self.contrast, self.captioning = contrast, captioning

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and its `contrastive_loss` and `captioning_loss` before they are weighted."""
        image, tokens = self.see(batch.images, batch.patches)
        text, surprise = self.read(batch.texts, tokens)
        num_tokens = torch.cat([ids.argmax(1) for ids in batch.texts.groups]).sum()
        contrast = self.loss(image, text)
        captioning = surprise * num_processes() / sum_over_processes(num_tokens)
        return {
            "loss": self.contrast * contrast + self.captioning * captioning,
            "contrastive_loss": contrast.detach(),
            "captioning_loss": captioning.detach(),
            "logit_scale": self.towers.scale.detach(),
        }

    def see(
        self,
        images: UInt8[Tensor, "batch height width 3"],
        patches: Int[Tensor, "batch kept"] | None,
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch tokens width"]]:
        """Unit-length embeddings of images or of some of their patches, and what the decoder sees."""
        towers = self.towers

        def embed(chunk: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
            visual = towers.clip.visual
            outputs = visual.transformer(embedded(visual, towers.normalise(chunk), kept))
            whole, tokens = visual._pool(outputs)
            return functional.normalize(project(whole, visual.proj), dim=-1), tokens

        chunks = towers.image_chunks(images, patches)
        wholes, tokens = zip(*(towers.cached(embed, *chunk) for chunk in chunks), strict=True)
        return torch.cat(wholes), torch.cat(tokens)

    def read(
        self, texts: Texts, images: Float[Tensor, "batch tokens width"]
    ) -> tuple[Float[Tensor, "batch texts dim"], Float[Tensor, ""]]:
        """Unit-length embeddings of texts, and the sum of their surprise, by groups and chunks."""
        clip = self.towers.clip

        def embed(ids: Int[Tensor, "chunk length"], seen: Tensor) -> tuple[Tensor, Tensor]:
            whole, words = decoder.read(clip.text, ids)
            surprise = decoder.surprise(clip.text_decoder, seen, words, ids)
            return functional.normalize(whole, dim=-1), surprise

        chunks = self.towers.text_chunks(texts)
        pairs = (texts.place.flatten().argsort() // texts.place.shape[1]).split(
            [len(chunk) for chunk in chunks]
        )
        done = [
            self.towers.cached(embed, ids, images[rows])
            for ids, rows in zip(chunks, pairs, strict=True)
        ]
        wholes, surprises = zip(*done, strict=True)
        return torch.cat(wholes)[texts.place], torch.stack(surprises).sum()
