"""Image-text retrieval: every caption looks for its image, every image for one of its captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate import pictures, ranking
from clipflow.evaluate.metrics import Embeddings, Indices
from clipflow.evaluate.results import DIRECTIONS, Direction, Retrieval, Shown, answers
from clipflow.evaluate.scores import DOT_PRODUCT, Scores
from clipflow.significance import Values

SHOWN = 5
"""Results shown per query."""


def retrieve(
    task: Task,
    encode: Callable[[Sequence[str]], Embeddings],
    images: Embeddings,
    captions: Sequence[Sequence[str]],
    *,
    recall_at: Sequence[int],
    num_shown: int = 0,
    seed: int = 0,
    scores: Scores = DOT_PRODUCT,
) -> Retrieval:
    """Measure one task in memory that doesn't grow with images times captions.

    images: [images, size]. captions: one or more of each image. An image's R@k is 1 if any of
    its captions is among the first k; a caption's, if its image is.
    """
    flat = [text for texts in captions for text in texts]
    counts = np.array([len(texts) for texts in captions])
    ends = np.cumsum(counts)
    first, owner = ends - counts, np.repeat(np.arange(len(images)), counts)
    texts = encode(flat)
    ranks: dict[str, Indices] = {
        "image_to_text": ranking.ranks(images, texts, first, ends, scores),
        "text_to_image": ranking.ranks(texts, images, owner, owner + 1, scores),
    }
    samples: dict[str, Values] = {}
    for k in recall_at:
        name = f"retrieval/{task.name}/{{}}/recall_at_{k}"
        samples[name.format("image_to_text")] = answers(ranks["image_to_text"] < k)
        # The captions of an image belong together: its share of all that is found, as a value of the image.
        hits = np.bincount(owner, weights=ranks["text_to_image"] < k, minlength=len(images))
        value = (hits * (len(images) / len(flat))).astype(np.float32)
        samples[name.format("text_to_image")] = value
    means = (scores.summary(vectors).mean(axis=0) for vectors in (images, texts))
    gap = float(np.linalg.norm(np.subtract(*means)))
    chance = {
        f"{direction}/{k}": _chance(direction, k, counts)
        for direction in DIRECTIONS
        for k in recall_at
    }
    drawn = np.random.default_rng(seed).permutation(len(images))[:num_shown].tolist()
    gallery = [_shown(row, images, texts, flat, owner, first, scores) for row in drawn]
    return Retrieval(
        task.name,
        samples,
        # Liang et al. 2022 (arXiv:2203.02053), section 2: the distance of the two means, 0 to 2.
        {f"embeddings/{task.name}/modality_gap": [gap]},
        pictures.thumbnails(task, (row for one in gallery for row in (one.row, *one.images))),
        len(images),
        len(flat),
        ranks,
        chance,
        gallery,
    )


def _shown(
    row: int,
    images: Embeddings,
    texts: Embeddings,
    flat: Sequence[str],
    owner: Indices,
    first: Indices,
    scores: Scores,
) -> Shown:
    caption = texts[first[row]]
    found_texts = np.argsort(-scores(images[row][None], texts)[0], kind="stable")[:SHOWN].tolist()
    found_images = np.argsort(-scores(caption[None], images)[0], kind="stable")[:SHOWN].tolist()
    return Shown(
        row,
        int(first[row]),
        flat[first[row]],
        [(flat[text], bool(owner[text] == row)) for text in found_texts],
        found_images,
        [flat[first[image]] for image in found_images],
    )


def _chance(direction: Direction, k: int, counts: Indices) -> float:
    """R@k of a random order, in expectation. counts: [images], captions of each."""
    num_images, num_captions = len(counts), int(counts.sum())
    if direction == "text_to_image":
        return min(1.0, k / num_images)
    drawn = np.arange(min(k, num_captions))[:, None]
    some, of_some = np.unique(counts, return_counts=True)
    left = np.clip(num_captions - some - drawn, 0, None) / (num_captions - drawn)
    return float(((1 - left.prod(axis=0)) * of_some).sum() / num_images)


def captions(task: Task, split: str, notes: Sequence[bytes]) -> list[list[str]]:
    """The captions of each image: the lines of its `<key>.txt`. Raises ArtifactError if none."""
    found = [[line for line in note.decode().splitlines() if line.strip()] for note in notes]
    for number, texts in enumerate(found):
        if not texts:
            raise ArtifactError(
                f"{task.folder / split}: sample {number} of task '{task.name}' has no caption; "
                "make it again with 'clipflow ingest'"
            )
    return found
