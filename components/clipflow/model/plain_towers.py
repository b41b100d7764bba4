"""open_clip's towers of the plain kinds, which can be told from others and computed with less work."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from clipflow.model.blocks import adopt, pooled


def pools_class_token(visual: nn.Module) -> bool:
    """Whether an image tower is a plain ViT, pooled at its class token."""
    return (
        isinstance(visual, VisionTransformer)
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and adopt(visual.transformer)
    )


def trims(text: nn.Module) -> bool:
    """Whether a text tower takes token ids that are cut after the end of text, by `trimmed`.

    Past the end-of-text token a causal tower reads nothing, so that a batch may be cut there.
    """
    return (
        isinstance(text, TextTransformer)
        and text.attn_mask is not None
        and text.pool_type == "argmax"
        and text.cls_emb is None
        and not text.use_pad_mask
        and adopt(text.transformer)
    )


def trimmed(text: Any, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
    """What a tower that `trims` makes of such ids."""
    tokens_in = text.token_embedding(tokens) + text.positional_embedding[: tokens.shape[1]]
    end = tokens.argmax(dim=1)  # the end-of-text token has the largest id
    whole = text.ln_final(pooled(text.transformer, tokens_in, end, causal=True))
    return project(whole, text.text_projection)


def project(
    embedded: Float[Tensor, "*batch width"], projection: nn.Linear | nn.Parameter | None
) -> Float[Tensor, "*batch dim"]:
    """Through the last layer of a tower, which may have none."""
    if projection is None:
        return embedded
    return projection(embedded) if isinstance(projection, nn.Linear) else embedded @ projection
