"""Linear probe: logistic regression on frozen, normalised image embeddings, with all examples or a few.

The regularisation that does best on a held-out fifth of the training split then fits all of it.
Source: Radford et al. 2021 (CLIP), appendix A.3 (L-BFGS, 1000 iterations, a sweep on held-out
samples); unlike there, the features are those after the projection into the joint space. Of a model that
compares token by token they are the mean of an image's patches, made one long.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from clipflow.evaluate.metrics import Embeddings, Indices

MAX_ITERATIONS = 1000
HELD_OUT = 5
"""Every fifth sample of each class is held out."""

Right = NDArray[np.bool_]
logger = logging.getLogger(__name__)


def choose(
    train: Embeddings, labels: Indices, strengths: Sequence[float], halvings: int = 0
) -> float:
    """The C (inverse regularisation) that does best on held-out training samples; the smallest wins a tie.

    After `strengths`, points half-way (in the logarithm) to both neighbours of the best are tried, and so
    on `halvings` times: CLIP's sweep is 1e-6, 1e-4 ... 1e6 and 4 halvings, to 8 steps per decade.
    """
    held_out = _held_out(labels)
    if not held_out.any() or len(set(labels[~held_out].tolist())) < 2:
        return strengths[0]
    kept, scores = ~held_out, dict[float, float]()

    def score(c: float) -> None:
        if c not in scores:
            right = answers(train[kept], labels[kept], train[held_out], labels[held_out], c)
            scores[c] = float(right.mean())

    if len(strengths) == 1:
        return strengths[0]
    for c in sorted(strengths):
        score(c)
    for _ in range(halvings):
        best = _best(scores)
        ordered = sorted(scores)
        at = ordered.index(best)
        for neighbour in (*ordered[max(0, at - 1) : at], *ordered[at + 1 : at + 2]):
            score(math.sqrt(best * neighbour))
    best = _best(scores)
    logger.debug("linear probe: C=%g chosen, held-out accuracy %.3f", best, scores[best])
    return best


def answers(
    train: Embeddings, labels: Indices, test: Embeddings, test_labels: Indices, c: float
) -> Right:
    """[test samples], which a probe fitted to the training samples gets right.

    train, test: [samples, dim]. labels: [samples]. c: scikit-learn's C. Equal inputs give equal answers.
    """
    if len(set(labels.tolist())) < 2:
        only: Right = test_labels == labels[0]
        return only
    probe = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train, labels)
    if probe.n_iter_.max() >= MAX_ITERATIONS:
        logger.warning("linear probe: C=%g stopped at %d iterations", c, MAX_ITERATIONS)
    right: Right = probe.predict(test) == test_labels
    return right


def few_shot(
    train: Embeddings,
    labels: Indices,
    test: Embeddings,
    test_labels: Indices,
    c: float,
    *,
    shots: int,
    draws: int,
    seed: int,
) -> NDArray[np.bool_]:
    """[draws, test samples], as `answers` of probes on `shots` examples per class, drawn anew each time.

    A class of fewer gives all that it has.
    """
    found = []
    for draw in range(draws):
        generator = np.random.default_rng([seed, shots, draw])
        rows = np.concatenate(
            [
                generator.permutation(np.flatnonzero(labels == label))[:shots]
                for label in np.unique(labels)
            ]
        )
        found.append(answers(train[rows], labels[rows], test, test_labels, c))
    return np.stack(found)


def _best(scores: dict[float, float]) -> float:
    return max(sorted(scores), key=scores.__getitem__)


def _held_out(labels: Indices) -> NDArray[np.bool_]:
    """[samples], every fifth sample of each class; a class of fewer than five keeps all."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[HELD_OUT - 1 :: HELD_OUT]] = True
    return mask
