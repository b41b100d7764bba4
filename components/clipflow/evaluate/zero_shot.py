"""Zero-shot classification: each class is the mean of its prompts' embeddings.

Source: Radford et al. 2021 (CLIP), section 3.1.4 (prompt engineering and ensembling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate import metrics
from clipflow.evaluate.metrics import Embeddings, Indices

Encode = Callable[[Sequence[str]], Embeddings]


@dataclass(frozen=True)
class Classification:
    """What one task gave: its metrics, and all that the report draws."""

    task: str
    classnames: list[str]
    metrics: dict[str, float]
    """By name within the task: `top1`, `top1_canonical`, ..."""
    labels: Indices
    """[samples], class indices."""
    similarity: Embeddings
    """[samples, classes], cosines with the ensemble of all templates."""

    @property
    def predicted(self) -> Indices:
        """[samples], the most similar class."""
        predicted: Indices = self.similarity.argmax(axis=1)
        return predicted

    @property
    def confusion(self) -> Indices:
        """[classes, classes], counts; rows are the actual classes."""
        return metrics.confusion(self.labels, self.predicted, len(self.classnames))


def classifier(
    encode: Encode, names: Sequence[Sequence[str]], templates: Sequence[str]
) -> Embeddings:
    """One unit vector per class, [classes, dim]: the normalised mean over its prompts.

    names: one or several per class, each put into every template. `encode` gives unit vectors, so
    each prompt weighs the same.
    """
    prompts = [[t.replace("{c}", name) for name in of for t in templates] for of in names]
    embeddings = encode([prompt for of in prompts for prompt in of])
    ends = np.cumsum([len(of) for of in prompts])[:-1]
    means = np.stack([part.mean(axis=0) for part in np.split(embeddings, ends)])
    weights: Embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
    return weights


def classify(task: Task, encode: Encode, images: Embeddings, labels: Indices) -> Classification:
    """Measure one task: with all templates, with the first alone, with synonyms if it has them."""
    names, templates = [[name] for name in task.classnames], task.templates
    similarity = images @ classifier(encode, names, templates).T
    canonical = images @ classifier(encode, names, templates[:1]).T
    confusion = metrics.confusion(labels, similarity.argmax(axis=1), len(names))
    found = {
        "top1": metrics.top_k_accuracy(similarity, labels, 1),
        "top1_canonical": metrics.top_k_accuracy(canonical, labels, 1),
        "mean_per_class": metrics.mean_per_class_accuracy(confusion),
    }
    if len(names) > 5:
        found["top5"] = metrics.top_k_accuracy(similarity, labels, 5)
    if task.synonyms is not None:
        if len(task.synonyms) != len(names):
            raise ArtifactError(
                f"{task.folder / 'synonyms.txt'}: expected a line per class ({len(names)}), found "
                f"{len(task.synonyms)}; make it again with 'clipflow ingest'"
            )
        also = [[*of, *filter(None, more)] for of, more in zip(names, task.synonyms, strict=True)]
        synonyms = images @ classifier(encode, also, templates).T
        found["top1_synonyms"] = metrics.top_k_accuracy(synonyms, labels, 1)
    return Classification(task.name, task.classnames, found, labels, similarity)


def labels(task: Task, split: str, notes: Sequence[bytes]) -> Indices:
    """[samples], the class indices in `<key>.cls`. Raises ArtifactError for anything else there."""
    num_classes = len(task.classnames)
    indices = [int(note) if note.strip().isdigit() else -1 for note in notes]
    for number, index in enumerate(indices):
        if not 0 <= index < num_classes:
            raise ArtifactError(
                f"{task.folder / split}: sample {number} of task '{task.name}' has label "
                f"{notes[number]!r}, expected a class index below {num_classes}; "
                "make it again with 'clipflow ingest'"
            )
    return np.array(indices, dtype=np.int64)
