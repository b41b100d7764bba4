"""How far a classifier's confidence is to be believed: calibration, and telling what is of no class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipflow.evaluate.metrics import Indices, Matrix
from clipflow.significance import Values

NUM_BINS = 15
"""Bins of confidence of equal width (Guo et al. 2017, section 4)."""
DRAWS = 1000
"""Bootstrap resamples."""


def probabilities(similarity: Matrix, logit_scale: float) -> Matrix:
    """Softmax over classes, [samples, classes]: cosines times the logit scale, as in training."""
    logits = logit_scale * similarity.astype(np.float64)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Matrix = exp / exp.sum(axis=1, keepdims=True)
    return found


def reliability(confidence: Values, right: Values) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and number of samples of each bin that has any."""
    bins = _bins(confidence)
    return [
        (float(confidence[of].mean()), float(right[of].mean()), int(of.sum()))
        for of in (bins == number for number in range(NUM_BINS))
        if of.any()
    ]


def error(confidence: Values, right: Values) -> list[float]:
    """Expected calibration error and its 95 % interval: |confidence - accuracy|, averaged over bins.

    confidence: [samples], probability of the answer given. right: [samples], 0 or 1.
    Source: Guo et al. 2017 (arXiv:1706.04599), equation 5.
    """
    bins, excess = _bins(confidence), confidence.astype(np.float64) - right
    in_bin = np.bincount(bins, weights=excess, minlength=NUM_BINS)
    value = np.abs(in_bin).sum() / len(bins)
    generator, drawn = np.random.default_rng(0), []
    for _ in range(DRAWS):
        rows = generator.integers(len(bins), size=len(bins))
        sums = np.bincount(bins[rows], weights=excess[rows], minlength=NUM_BINS)
        drawn.append(np.abs(sums).sum() / len(bins))
    return [float(value), *map(float, np.quantile(drawn, [0.025, 0.975]))]


def auroc(inside: Values, outside: Values) -> list[float]:
    """The chance that something of a class scores above something of none, and its 95 % interval.

    inside, outside: [samples], scores that should be high inside. Ties count half.
    Source: the area under the ROC curve as Mann and Whitney's U (Hanley and McNeil 1982); the scores are
    maximum concept matching's (Ming et al. 2022, arXiv:2211.13445, equation 1, at temperature 1).
    """
    scores, place = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    mine, theirs = place[: len(inside)], place[len(inside) :]
    ours = np.bincount(mine, minlength=len(scores)).astype(np.float64)
    others = np.bincount(theirs, minlength=len(scores)).astype(np.float64)
    generator = np.random.default_rng(0)
    drawn = [
        _area(
            generator.multinomial(len(inside), ours / ours.sum()),
            generator.multinomial(len(outside), others / others.sum()),
        )
        for _ in range(DRAWS)
    ]
    return [_area(ours, others), *map(float, np.quantile(drawn, [0.025, 0.975]))]


def concept_match(similarity: Matrix) -> Values:
    """[samples], the softmax over classes of cosines at temperature 1, of the best class."""
    found: Values = probabilities(similarity, 1.0).max(axis=1)
    return found


def _area(ours: NDArray[Any], others: NDArray[Any]) -> float:
    """By counts at rising scores."""
    below = np.cumsum(others) - others / 2
    return float((ours * below).sum() / (ours.sum() * others.sum()))


def _bins(confidence: Values) -> Indices:
    found: Indices = np.clip((confidence * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    return found
