"""Pictures of a report: which samples to show, as thumbnails that the page carries itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from clipflow.artifacts.benchmarks import Task
from clipflow.evaluate.results import Classification, Direction, Retrieval

THUMBNAIL_PX = 128


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


def thumbnails(task: Task, rows: Iterable[int]) -> dict[str, str]:
    """The thumbnails of some test samples, by row; one pass over the split, as far as the last."""
    wanted = set(rows)
    found: dict[str, str] = {}
    for row, (data, _) in enumerate(task.samples("test")) if wanted else ():
        if row in wanted:
            found[str(row)] = thumbnail(data)
            if len(found) == len(wanted):
                break
    return found


def mistakes(result: Classification) -> list[Mistake]:
    """The wrong answers that the model was surest of."""
    return [
        Mistake(
            result.thumbnails[str(row)],
            result.classnames[result.labels[row]],
            result.classnames[result.predicted[row]],
            of_answer,
            of_right,
        )
        for row, of_answer, of_right in result.mistakes
    ]


def queries(result: Retrieval) -> dict[Direction, list[Query]]:
    """The same random images queried both ways: by image, and by the first caption of each."""
    images = result.thumbnails
    return {
        "image_to_text": [
            Query(
                one.caption,
                images[str(one.row)],
                int(result.ranks["image_to_text"][one.row]) + 1,
                result.num_captions,
                [Answer(text, is_right, None) for text, is_right in one.texts],
            )
            for one in result.gallery
        ],
        "text_to_image": [
            Query(
                one.caption,
                None,
                int(result.ranks["text_to_image"][one.first]) + 1,
                result.num_images,
                [
                    Answer(caption, row == one.row, images[str(row)])
                    for row, caption in zip(one.images, one.captions, strict=True)
                ],
            )
            for one in result.gallery
        ],
    }
