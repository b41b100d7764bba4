"""Pictures of a report: which samples to show, as thumbnails that the page carries itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipflow.artifacts.benchmarks import Task
from clipflow.evaluate.retrieval import Direction, Retrieval
from clipflow.evaluate.zero_shot import Classification

THUMBNAIL_PX = 128
SHOWN = 5
"""Results shown per retrieval query."""


@dataclass(frozen=True)
class Mistake:
    """A confident wrong answer. Probabilities are the model's own, in [0, 1]."""

    image: str
    actual: str
    predicted: str
    probability: float
    probability_of_actual: float


@dataclass(frozen=True)
class Answer:
    """One retrieved item: a caption, or an image (data URI) with its first caption."""

    text: str
    is_right: bool
    image: str | None


@dataclass(frozen=True)
class Query:
    """One retrieval query with its first answers."""

    text: str
    image: str | None
    rank: int
    """Of the best right answer, from 1."""
    num_candidates: int
    answers: list[Answer]


def thumbnail(jpeg: bytes) -> str:
    """A data URI of the image, at most THUMBNAIL_PX on its longer side."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnails(task: Task, rows: Iterable[int]) -> dict[int, str]:
    """The thumbnails of some test samples, by row; one pass over the split."""
    wanted = set(rows)
    samples = enumerate(task.samples("test")) if wanted else ()
    return {row: thumbnail(jpeg) for row, (jpeg, _) in samples if row in wanted}


def mistakes(task: Task, result: Classification, logit_scale: float, count: int) -> list[Mistake]:
    """The wrong answers that the model was surest of, at most one per pair of classes."""
    logits = logit_scale * result.similarity.astype(np.float64)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = exp / exp.sum(axis=1, keepdims=True)
    predicted = result.predicted
    surest = np.argsort(-probability.max(axis=1), kind="stable")
    pairs: dict[tuple[int, int], int] = {}
    for row in surest[predicted[surest] != result.labels[surest]].tolist():
        pairs.setdefault((int(result.labels[row]), int(predicted[row])), row)
    rows = list(pairs.values())[:count]
    images = thumbnails(task, rows)
    return [
        Mistake(
            images[row],
            result.classnames[result.labels[row]],
            result.classnames[predicted[row]],
            float(probability[row, predicted[row]]),
            float(probability[row, result.labels[row]]),
        )
        for row in rows
    ]


def queries(task: Task, result: Retrieval, count: int, seed: int) -> dict[Direction, list[Query]]:
    """The same random images queried both ways: by image, and by the first caption of each."""
    first = np.unique(result.image_of_caption, return_index=True)[1]
    drawn = np.random.default_rng(seed).permutation(len(result.images))[:count].tolist()
    nearest_texts = {i: result.nearest("image_to_text", i, SHOWN).tolist() for i in drawn}
    nearest_images = {i: result.nearest("text_to_image", first[i], SHOWN).tolist() for i in drawn}
    images = thumbnails(task, [*drawn, *(row for rows in nearest_images.values() for row in rows)])
    own = result.captions
    return {
        "image_to_text": [
            Query(
                own[first[i]],
                images[i],
                int(result.ranks["image_to_text"][i]) + 1,
                len(own),
                [
                    Answer(own[t], result.is_right("image_to_text", i, t), None)
                    for t in nearest_texts[i]
                ],
            )
            for i in drawn
        ],
        "text_to_image": [
            Query(
                own[first[i]],
                None,
                int(result.ranks["text_to_image"][first[i]]) + 1,
                len(result.images),
                [Answer(own[first[j]], i == j, images[j]) for j in nearest_images[i]],
            )
            for i in drawn
        ],
    }
