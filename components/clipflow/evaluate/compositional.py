"""Whether a model prefers the right caption to one that differs in little, so that order and binding count.

Source: Yuksekgonul et al. 2023 (ARO, arXiv:2210.01936), Hsieh et al. 2023 (SugarCrepe, arXiv:2306.14610).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from clipflow.artifacts.benchmarks import Task
from clipflow.evaluate import pictures
from clipflow.evaluate.metrics import Embeddings
from clipflow.evaluate.results import Compositional, answers
from clipflow.evaluate.scores import DOT_PRODUCT, Scores


def compare(
    task: Task,
    encode: Callable[[Sequence[str]], Embeddings],
    images: Embeddings,
    notes: Sequence[bytes],
    *,
    num_shown: int,
    scores: Scores = DOT_PRODUCT,
) -> Compositional:
    """Measure one task; chance is one half, and a tie is wrong.

    images: [pairs, size]. notes: right and wrong caption of each, in JSON.
    """
    captions = [tuple(json.loads(note)) for note in notes]
    texts = encode([text for pair in captions for text in pair])
    right, wrong = (scores.pairs(images, texts[n::2]) for n in (0, 1))
    worst = np.argsort(right - wrong, kind="stable")[:num_shown].tolist()
    worst = [row for row in worst if right[row] <= wrong[row]]
    return Compositional(
        task.name,
        {f"compositional/{task.name}/accuracy": answers(right > wrong)},
        {},
        pictures.thumbnails(task, worst),
        [(row, *captions[row], float(right[row]), float(wrong[row])) for row in worst],
    )
