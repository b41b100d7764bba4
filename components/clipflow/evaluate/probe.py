"""Linear probe: logistic regression on frozen, normalised image embeddings.

The regularisation that does best on a held-out fifth of the training split then fits all of it.
Source: Radford et al. 2021 (CLIP), appendix A.3 (L-BFGS, 1000 iterations, a sweep on held-out
samples); unlike there, the features are those after the projection into the joint space.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)


def accuracy(
    train: Embeddings,
    train_labels: Indices,
    test: Embeddings,
    test_labels: Indices,
    strengths: Sequence[float],
) -> float:
    """Test accuracy in [0, 1] of the best probe; the same inputs give the same number.

    train, test: [samples, dim]. labels: [samples]. strengths: scikit-learn's C, the inverse of the
    regularisation; the smallest wins a tie.
    """
    if len(set(train_labels.tolist())) < 2:
        return float((test_labels == train_labels[0]).mean())
    held_out = _held_out(train_labels)
    if not held_out.any() or len(strengths) == 1:
        return _score(train, train_labels, test, test_labels, strengths[0])
    kept = ~held_out
    scores = {
        c: _score(train[kept], train_labels[kept], train[held_out], train_labels[held_out], c)
        for c in sorted(strengths)
    }
    best = max(scores, key=scores.__getitem__)
    logger.debug("linear probe: C=%g chosen, held-out accuracy %.3f", best, scores[best])
    return _score(train, train_labels, test, test_labels, best)


def _held_out(labels: Indices) -> NDArray[np.bool_]:
    """[samples], every fifth sample of each class; a class of fewer than five keeps all."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[HELD_OUT - 1 :: HELD_OUT]] = True
    return mask


def _score(x: Embeddings, y: Indices, test: Embeddings, test_labels: Indices, c: float) -> float:
    probe = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(x, y)
    if probe.n_iter_.max() >= MAX_ITERATIONS:
        logger.warning("linear probe: C=%g stopped at %d iterations", c, MAX_ITERATIONS)
    return float(probe.score(test, test_labels))
