"""open_clip's transformer blocks with the same weights and outputs, computed with less work.

Queries, keys and values are views of one projection instead of copies, and a tower's last block computes
only the one position that the tower is pooled at: the others' outputs would be thrown away. For 12 layers
that leaves out some 7 % of a tower.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn
from torch.nn import functional


class Block(ResidualAttentionBlock):  # type: ignore[misc]
    """Pre-norm self-attention and MLP with residuals, as open_clip's block of plain attention."""

    def forward(
        self,
        tokens: Float[Tensor, "batch length width"],
        causal: bool = False,
        at: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out width"]:
        """What the block makes of all tokens, or of the one at position `at` of each sequence alone."""
        normed = self.ln_1(tokens)
        if at is None:
            attended = _attend(self.attn, normed, causal)
        else:
            rows = torch.arange(len(at), device=at.device)
            attended = _attend_at(self.attn, normed, normed[rows, at], at if causal else None)
            tokens = tokens[rows, at][:, None]
        tokens = tokens + self.ls_1(attended)
        out: Tensor = tokens + self.ls_2(self.mlp(self.ln_2(tokens)))
        return out


def adopt(transformer: Transformer) -> bool:
    """Whether all blocks of a transformer are plain ones, which then have become `Block`s."""
    plain = all(
        type(block) is ResidualAttentionBlock and block.attn.batch_first
        for block in transformer.resblocks
    )
    if plain:
        for block in transformer.resblocks:
            block.__class__ = Block  # the weights stay where they are
    return plain


def unpooled(
    transformer: Transformer, tokens: Float[Tensor, "batch length width"], *, causal: bool
) -> Float[Tensor, "batch length width"]:
    """The transformer's output at all positions."""
    for block in transformer.resblocks:
        tokens = block(tokens, causal)
    return tokens


def pooled(
    transformer: Transformer,
    tokens: Float[Tensor, "batch length width"],
    at: Int[Tensor, " batch"],
    *,
    causal: bool,
) -> Float[Tensor, "batch width"]:
    """The transformer's output at position `at` of each sequence."""
    for block in transformer.resblocks[:-1]:
        tokens = block(tokens, causal)
    out: Tensor = transformer.resblocks[-1](tokens, causal, at)
    return out[:, 0]


def _attend(
    attn: nn.MultiheadAttention, tokens: Float[Tensor, "batch length width"], causal: bool
) -> Float[Tensor, "batch length width"]:
    batch, length, width = tokens.shape
    projected = functional.linear(tokens, attn.in_proj_weight, attn.in_proj_bias)
    heads = projected.view(batch, length, 3, attn.num_heads, -1).unbind(2)
    query, key, value = (head.transpose(1, 2) for head in heads)
    out = _weighted(query, key, value, causal=causal)
    return attn.out_proj(out.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


def _attend_at(
    attn: nn.MultiheadAttention,
    tokens: Float[Tensor, "batch length width"],
    query_tokens: Float[Tensor, "batch width"],
    up_to: Int[Tensor, " batch"] | None,
) -> Float[Tensor, "batch 1 width"]:
    """Attention of one query per sequence to the tokens up to a position, or to all."""
    batch, length, width = tokens.shape
    weight_q, weight_kv = attn.in_proj_weight.split([width, 2 * width])
    bias_q, bias_kv = attn.in_proj_bias.split([width, 2 * width])
    query = functional.linear(query_tokens, weight_q, bias_q).view(batch, attn.num_heads, 1, -1)
    projected = functional.linear(tokens, weight_kv, bias_kv)
    heads = projected.view(batch, length, 2, attn.num_heads, -1).unbind(2)
    key, value = (head.transpose(1, 2) for head in heads)
    mask = None
    if up_to is not None:
        mask = (torch.arange(length, device=tokens.device) <= up_to[:, None])[:, None, None]
    out = _weighted(query, key, value, mask=mask)
    return attn.out_proj(out.reshape(batch, 1, width))  # type: ignore[no-any-return]


def _weighted(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch heads length dim"],
    value: Float[Tensor, "batch heads length dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch 1 1 length"] | None = None,
) -> Float[Tensor, "batch heads queries dim"]:
    """Values weighted by how well their keys fit: fused, but on CPUs in bfloat16 by plain products.

    There PyTorch's fused attention, forward and backward, takes two to four times as long.
    """
    if query.is_cuda or query.dtype is not torch.bfloat16:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )
    fits = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if causal:
        mask = torch.ones(fits.shape[-2:], dtype=torch.bool, device=fits.device).tril()
    if mask is not None:
        fits = fits.masked_fill(~mask, -torch.inf)
    out: Tensor = fits.softmax(-1) @ value
    return out
