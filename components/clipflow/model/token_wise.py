"""Late interaction: images and texts compared token by token, without ever holding all pairs of tokens.

Tokens have unit length; a token of zeros is absent, whether as padding or otherwise: it neither asks nor
answers.

Source: Yao et al. 2021, *FILIP* (arXiv:2111.07783), section 3.1, equations for the two similarities.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clipflow.model import tiled
from clipflow.model.similarity import Similarity
from clipflow.model.token_embeddings import Tokens


class TokenWise(Similarity):
    """A sample's vector is its tokens, one after the other."""

    kind = "token_wise"
    is_dot_product = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of a token."""
        return {"dim": self.dim}

    def embed(self, tokens: Tokens) -> Float[Tensor, "*batch size"]:
        """All tokens, each of unit length; those that are absent are zeros."""
        unit = functional.normalize(tokens.tokens, dim=-1) * tokens.present[..., None]
        vectors: Tensor = unit.flatten(-2)
        return vectors

    def tokens(self, vectors: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch length dim"]:
        """The tokens in vectors that `embed` made."""
        return vectors.view(*vectors.shape[:-1], -1, self.dim)

    def scores(
        self, queries: Float[Tensor, "queries size"], candidates: Float[Tensor, "candidates other"]
    ) -> Float[Tensor, "queries candidates"]:
        """The mean over a query's tokens of the largest cosine with one of the candidate's."""
        asking, asked = self.tokens(queries), self.tokens(candidates)
        found = queries.new_empty(len(asking), len(asked))
        rows, columns = _tile(asking, asked)
        for top in range(0, len(asking), rows):
            one = asking[top : top + rows]
            for left in range(0, len(asked), columns):
                best = _cosines(one, asked[left : left + columns]).amax(3).transpose(1, 2)
                tile = _mean(best, _present(one)[:, None])
                found[top : top + rows, left : left + columns] = tile
        return found

    def summary(self, vectors: Float[Tensor, "batch size"]) -> Float[Tensor, "batch dim"]:
        """The mean of the tokens, made one long."""
        return functional.normalize(self.tokens(vectors).sum(1), dim=-1)


def token_wise_info_nce(
    images: Float[Tensor, "local patches dim"],
    texts: Float[Tensor, "local words dim"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE by late interaction of this process's rows of the global batch.

    Over each image's similarities to all texts, and over each text's to all images. The contract is that of
    `tiled.tiled`: the mean of all processes' values is the loss of the global batch, and so are the
    gradients after DDP has averaged them. `words` may differ between processes.
    """
    to_texts, to_images = both_ways(images, _of_all_processes(texts))
    to_texts, to_images = scale * to_texts, scale * to_images
    first = tiled.rank() * len(images)
    row_sums = to_texts.logsumexp(1)
    column_sums = tiled.gathered(to_images.logsumexp(0)[None]).logsumexp(0)
    own = column_sums[first : first + len(images)]
    positives = to_texts.diagonal(first) + to_images.diagonal(first)
    return (row_sums + own - positives).mean() / 2


def both_ways(
    images: Float[Tensor, "images patches dim"], texts: Float[Tensor, "texts words dim"]
) -> tuple[Float[Tensor, "images texts"], Float[Tensor, "images texts"]]:
    """The similarity of each image to each text, and of each text to each image.

    By tiles that are computed once more in backward, so that the cosines of all tokens are never held.
    """
    rows, columns = _tile(images, texts)
    found = [
        [
            checkpoint(_both_ways, one, other, use_reentrant=False, preserve_rng_state=False)
            for other in texts.split(columns)
        ]
        for one in images.split(rows)
    ]
    to_texts, to_images = (
        torch.cat([torch.cat([tile[way] for tile in row], 1) for row in found]) for way in (0, 1)
    )
    return to_texts, to_images


def _both_ways(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    cosines = _cosines(images, texts)
    # Each maximum has one token's gradient, also where tokens are equal.
    of_patches, of_words = cosines.max(3).values, cosines.max(1).values
    return (
        _mean(of_patches.transpose(1, 2), _present(images)[:, None]),
        _mean(of_words, _present(texts)),
    )


def _tile(one: Tensor, other: Tensor) -> tuple[int, int]:
    """Rows and columns whose cosines are no more elements than a tile has."""
    pair = one.shape[1] * other.shape[1]
    columns = min(len(other), max(1, tiled.TILE_ELEMENTS // pair))
    return max(1, tiled.TILE_ELEMENTS // (pair * columns)), columns


def _cosines(
    one: Float[Tensor, "ones n dim"], other: Float[Tensor, "others m dim"]
) -> Float[Tensor, "ones n others m"]:
    """Of each token with each; minus infinity where one is absent."""
    cosines = torch.einsum("ind,jmd->injm", one, other)
    absent = ~_present(one)[:, :, None, None] | ~_present(other)
    exact = torch.promote_types(cosines.dtype, torch.float32)
    return cosines.to(exact).masked_fill_(absent, -torch.inf)


def _present(tokens: Float[Tensor, "batch length dim"]) -> Bool[Tensor, "batch length"]:
    return (tokens.detach() != 0).any(-1)


def _mean(best: Float[Tensor, "ones others length"], present: Bool[Tensor, ...]) -> Tensor:
    """The mean over the tokens that are present."""
    means: Tensor = best.where(present, 0).sum(2) / present.sum(-1)
    return means


def _of_all_processes(tokens: Float[Tensor, "local length dim"]) -> Float[Tensor, "all most dim"]:
    """The samples of all processes, padded to the longest."""
    most = tiled.largest_over_processes(tokens.shape[1], tokens.device)
    padded = functional.pad(tokens, (0, 0, 0, most - tokens.shape[1]))
    return tiled.gathered(padded.flatten(1)).view(-1, most, tokens.shape[2])
