"""The rank of the right answer among all candidates, without ever holding all similarities.

Ties go to the lower candidate, so that a collapsed model scores at chance and not at 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from clipflow import log
from clipflow.evaluate.metrics import Embeddings, Indices
from clipflow.evaluate.scores import DOT_PRODUCT, Scores

QUERIES, CANDIDATES = 512, 32_768
"""Compared at once: 64 MiB of similarities, whatever the sizes of the task."""


def ranks(
    queries: Embeddings,
    candidates: Embeddings,
    first: Indices,
    after: Indices,
    scores: Scores = DOT_PRODUCT,
) -> Indices:
    """The rank of each query's best right candidate, by falling similarity; 0 is the best.

    queries: [queries, size], candidates: [candidates, size]. Right for query q are the
    candidates from first[q] to before after[q], at least one. On the GPU if there is one.

        similarity        right        -> rank
        0.9  0.1  0.5     2 to 3          1     column 0 comes before the right column 2
        0.2  0.7  0.4     0 to 2          0     the better of two right columns counts
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pool = torch.from_numpy(np.ascontiguousarray(candidates)).to(device)
    found = np.empty(len(queries), np.int64)
    starts = range(0, len(queries), QUERIES)
    for start in log.progress(starts, total=len(starts), what="ranking", unit="block"):
        block = slice(start, start + QUERIES)
        asked = torch.from_numpy(np.ascontiguousarray(queries[block])).to(device)
        low = torch.from_numpy(first[block]).to(device)[:, None]
        high = torch.from_numpy(after[block]).to(device)[:, None]
        found[block] = _of_block(asked, pool, low, high, scores).cpu().numpy()
    return found


@torch.inference_mode()
def _of_block(asked: Tensor, pool: Tensor, low: Tensor, high: Tensor, scores: Scores) -> Tensor:
    best = torch.full((len(asked), 1), -torch.inf, device=asked.device)
    place = torch.full_like(low, len(pool))
    begin, end = int(low.min()), int(high.max())
    for start, columns, similarity in _chunks(asked, pool, begin, end, scores):
        own = similarity.masked_fill((columns < low) | (columns >= high), -torch.inf)
        score, column = own.max(dim=1, keepdim=True)
        better = score > best
        best = torch.where(better, score, best)
        place = torch.where(better, column + start, place)
    counts = torch.zeros(len(asked), dtype=torch.int64, device=asked.device)
    for _, columns, similarity in _chunks(asked, pool, 0, len(pool), scores):
        before = (similarity > best) | ((similarity == best) & (columns < place))
        counts += before.sum(dim=1)
    return counts


def _chunks(
    asked: Tensor, pool: Tensor, begin: int, end: int, scores: Scores
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """First column, columns and similarities of the chunks with columns from begin to before end.

    A chunk's similarities are the same bits each time, so that equality tells a candidate itself.
    """
    for start in range(begin // CANDIDATES * CANDIDATES, end, CANDIDATES):
        chunk = pool[start : start + CANDIDATES]
        columns = torch.arange(start, start + len(chunk), device=pool.device)[None]
        yield start, columns, scores.tensors(asked, chunk)
