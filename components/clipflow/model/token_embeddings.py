"""What the towers make of each patch and each word, beside the whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from clipflow.errors import ParamsError
from clipflow.model.blocks import unpooled
from clipflow.model.patches import embedded
from clipflow.model.plain_towers import project
from clipflow.model.texts import Texts
from clipflow.model.towers import Towers


class Tokens(NamedTuple):
    """Samples as a whole, and token by token through the same projection."""

    pooled: Float[Tensor, "*batch dim"]
    """Unit length, as `Towers.embed_images` and `Towers.embed_texts` give it."""
    tokens: Float[Tensor, "*batch length dim"]
    """Of any length: an image's patches row by row, a text's words with its marks of start and end."""
    present: Bool[Tensor, "*batch length"]
    """False for padding, whose tokens are 0."""


def check(towers: Towers, recipe: str) -> None:
    """Raise ParamsError if one of the towers has no tokens that can be told here."""
    for tower, has_tokens in (("image", towers.pools_class_token), ("text", towers.trims_text)):
        if not has_tokens:
            raise ParamsError(
                f"pretrain.architecture: recipe '{recipe}' needs patches and words, and the {tower} tower"
                f" of '{towers.architecture}' shows none; choose one of open_clip's ViTs, such as ViT-B-16"
            )


def embed_image_tokens(
    towers: Towers,
    images: UInt8[Tensor, "batch height width 3"],
    patches: Int[Tensor, "batch kept"] | None = None,
) -> Tokens:
    """A batch's images, or some of their patches, by chunks; no other patches are among the tokens."""

    def embed(chunk: Tensor, kept: Tensor | None) -> Tokens:
        return image_tokens(towers.clip.visual, towers.normalise(chunk), kept)

    return _joined([towers.cached(embed, *chunk) for chunk in towers.image_chunks(images, patches)])


def embed_text_tokens(towers: Towers, texts: Texts) -> Tokens:
    """A batch's texts, [batch, texts, ...], by groups and chunks."""

    def embed(ids: Int[Tensor, "chunk length"]) -> Tokens:
        return text_tokens(towers.clip.text, ids)

    whole = _joined([towers.cached(embed, chunk) for chunk in towers.text_chunks(texts)])
    return Tokens(*(values[texts.place] for values in whole))


def image_tokens(
    visual: Any,
    images: Float[Tensor, "batch 3 height width"],
    patches: Int[Tensor, "batch kept"] | None = None,
) -> Tokens:
    """What a tower that `towers.pools_class_token` makes of normalised images, or of some patches."""
    tokens = unpooled(visual.transformer, embedded(visual, images, patches), causal=False)
    projected = project(visual.ln_post(tokens), visual.proj)
    tokens = projected[:, 1:]
    return Tokens(
        functional.normalize(projected[:, 0], dim=-1),
        tokens,
        tokens.new_ones(tokens.shape[:2], dtype=torch.bool),
    )


def text_tokens(text: Any, ids: Int[Tensor, "batch length"]) -> Tokens:
    """What a tower that `plain_towers.trims` makes of ids."""
    tokens = text.token_embedding(ids) + text.positional_embedding[: ids.shape[1]]
    tokens = text.ln_final(unpooled(text.transformer, tokens, causal=True))
    projected = project(tokens, text.text_projection)
    end = ids.argmax(1)  # the end-of-text token has the largest id
    present = torch.arange(ids.shape[1], device=ids.device) <= end[:, None]
    pooled = functional.normalize(projected[torch.arange(len(ids)), end], dim=-1)
    return Tokens(pooled, projected * present[:, :, None], present)


def _joined(parts: list[Tokens]) -> Tokens:
    """One after the other, padded to the longest."""
    length = max(part.tokens.shape[1] for part in parts)
    return Tokens(
        torch.cat([part.pooled for part in parts]),
        torch.cat([functional.pad(p.tokens, (0, 0, 0, length - p.tokens.shape[1])) for p in parts]),
        torch.cat([functional.pad(p.present, (0, length - p.present.shape[1])) for p in parts]),
    )
