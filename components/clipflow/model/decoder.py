"""open_clip's CoCa: a text tower whose last token stands for the whole, and a decoder on its words.

Source: Yu et al. 2022 (CoCa, arXiv:2205.01917), section 3.2: decoupled text decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional


def has_decoder(clip: nn.Module) -> bool:
    """Whether a model of open_clip has a captioning decoder, beside a ViT and a text tower for `read`."""
    text = getattr(clip, "text", None)
    return (
        hasattr(clip, "text_decoder")
        and isinstance(clip.visual, VisionTransformer)
        and isinstance(text, TextTransformer)
        and text.cls_emb is not None
        and text.attn_mask is not None
    )


def initialise(decoder: Any) -> None:
    """Give the decoder's last layer random weights: open_clip leaves it as the memory was."""
    nn.init.normal_(decoder.text_projection, std=decoder.text_projection.shape[0] ** -0.5)


def read(
    text: Any, ids: Int[Tensor, "batch length"]
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch length width"]]:
    """Embeddings of texts cut to any length, and their words as the decoder takes them.

    Both are what the tower makes of the whole context: there, too, the class token stands at the last
    position and sees one token past the end of text, since open_clip masks padding one too late.
    """
    seen = functional.pad(ids, (0, 1))[:, : text.context_length]
    embedded, mask = text._embeds(seen)
    positions = text.positional_embedding
    last = embedded[:, -1:] + positions[-1] - positions[embedded.shape[1] - 1]
    out = text.transformer(torch.cat([embedded[:, :-1], last], dim=1), attn_mask=mask)
    return text.ln_final(out[:, -1]) @ text.text_projection, out[:, : ids.shape[1]]


def surprise(
    decoder: Any,
    images: Float[Tensor, "batch tokens width"],
    words: Float[Tensor, "batch length width"],
    ids: Int[Tensor, "batch length"],
) -> Float[Tensor, ""]:
    """Minus the log-likelihood of each next token up to the end of text, summed over texts, in nats."""
    end = ids.argmax(1)  # the end-of-text token has the largest id
    following = torch.arange(1, ids.shape[1], device=ids.device)
    labels = ids[:, 1:].masked_fill(following > end[:, None], -1)
    logits = decoder(images, words[:, :-1]).flatten(0, 1).float()
    return functional.cross_entropy(logits, labels.flatten(), ignore_index=-1, reduction="sum")
