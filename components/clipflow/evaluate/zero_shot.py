"""Zero-shot classification: each class is the mean of its prompts.

Source: Radford et al. 2021 (CLIP), section 3.1.4 (prompt engineering and ensembling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate import calibration, metrics, pictures
from clipflow.evaluate.metrics import Embeddings, Indices, Matrix
from clipflow.evaluate.results import Classification, answers
from clipflow.evaluate.scores import DOT_PRODUCT, Classes, Scores
from clipflow.significance import Values

Encode = Callable[[Sequence[str]], Embeddings]
Templates = Literal["simple", "openai"] | None


@dataclass(frozen=True)
class Classifier:
    """What an image's similarities to the classes of one task are computed by."""

    ensemble: Classes
    """With all templates."""
    canonical: Classes
    """With the first alone."""
    synonyms: Classes | None
    """With all, of all names of a class."""

    @classmethod
    def of(
        cls, task: Task, encode: Encode, templates: Templates, scores: Scores = DOT_PRODUCT
    ) -> Classifier:
        """Embed the task's prompts, or those of a set that is in open_clip. Raises ArtifactError."""
        names, prompts = [[name] for name in task.classnames], _templates(task, templates)
        also = None
        if task.synonyms is not None:
            if len(task.synonyms) != len(names):
                raise ArtifactError(
                    f"{task.folder / 'synonyms.txt'}: expected a line per class ({len(names)}), found "
                    f"{len(task.synonyms)}; make it again with 'clipflow ingest'"
                )
            pairs = zip(names, task.synonyms, strict=True)
            many = [[*of, *filter(None, more)] for of, more in pairs]
            also = classes(encode, many, prompts, scores)
        ensemble = classes(encode, names, prompts, scores)
        return cls(ensemble, classes(encode, names, prompts[:1], scores), also)


def _templates(task: Task, which: Templates) -> list[str]:
    if which is None:
        return task.templates
    import open_clip

    sets = {
        "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
        "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
    }
    return [template("{c}") for template in sets[which]]


def classes(
    encode: Encode, names: Sequence[Sequence[str]], templates: Sequence[str], scores: Scores
) -> Classes:
    """Similarities to each class by its prompts, which weigh the same.

    names: one or several per class, each put into every template.
    """
    prompts = [[t.replace("{c}", name) for name in of for t in templates] for of in names]
    embeddings = encode([prompt for of in prompts for prompt in of])
    return scores.classes(embeddings, [len(of) for of in prompts])


def classify(
    task: Task,
    classifier: Classifier,
    images: Embeddings,
    labels: Indices,
    *,
    logit_scale: float,
    num_mistakes: int,
) -> Classification:
    """Measure one task: with all templates, with the first alone, with synonyms if it has them.

    images: [samples, size]. logit_scale: what similarities are multiplied by before the softmax.
    """
    name, similarity = f"zero_shot/{task.name}", classifier.ensemble(images)
    predicted: Indices = similarity.argmax(axis=1)
    right = answers(predicted == labels)
    samples = {
        f"{name}/top1": right,
        f"{name}/top1_canonical": _top(classifier.canonical(images), labels, 1),
        f"{name}/mean_per_class": right * _per_class(labels),
    }
    if len(task.classnames) > 5:
        samples[f"{name}/top5"] = _top(similarity, labels, 5)
    if classifier.synonyms is not None:
        samples[f"{name}/top1_synonyms"] = _top(classifier.synonyms(images), labels, 1)
    probability = calibration.probabilities(similarity, logit_scale)
    confidence = probability.max(axis=1)
    mistakes = _mistakes(probability, labels, num_mistakes)
    return Classification(
        task.name,
        samples,
        {f"calibration/{task.name}/ece": calibration.error(confidence, right)},
        pictures.thumbnails(task, (row for row, *_ in mistakes)),
        task.classnames,
        labels,
        predicted,
        mistakes,
        calibration.reliability(confidence, right),
    )


def _top(similarity: Matrix, labels: Indices, k: int) -> Values:
    return answers(metrics.class_ranks(similarity, labels) < k)


def _per_class(labels: Indices) -> Values:
    """[samples], weights with which the mean over samples is the mean over classes."""
    present, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    found: Values = (len(labels) / (len(present) * counts))[place].astype(np.float32)
    return found


def _mistakes(probability: Matrix, labels: Indices, count: int) -> list[tuple[int, float, float]]:
    """The wrong answers that the model was surest of, at most one per pair of classes."""
    predicted = probability.argmax(axis=1)
    surest = np.argsort(-probability.max(axis=1), kind="stable")
    pairs: dict[tuple[int, int], int] = {}
    for row in surest[predicted[surest] != labels[surest]].tolist():
        pairs.setdefault((int(labels[row]), int(predicted[row])), row)
    return [
        (row, float(probability[row, predicted[row]]), float(probability[row, labels[row]]))
        for row in list(pairs.values())[:count]
    ]


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
