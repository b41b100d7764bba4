import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clipflow.evaluate import calibration


def test_probabilities_are_the_softmax_of_scaled_cosines():
    found = calibration.probabilities(np.array([[0.3, 0.1]], np.float32), 10.0)
    assert found[0, 0] == pytest.approx(1 / (1 + np.exp(-2.0)), rel=1e-6)
    assert np.isfinite(calibration.probabilities(np.array([[1.0, -1.0]]), 1e4)).all()


def test_the_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([1, 1, 1, 0, 1, 0], np.float32)
    value, low, high = calibration.error(confidence, right)
    assert value == pytest.approx((4 * abs(0.95 - 0.75) + 2 * abs(0.55 - 0.5)) / 6)
    assert low < value < high


def test_a_calibrated_model_has_little_error():
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    right = (rng.random(20_000) < confidence).astype(np.float32)
    assert calibration.error(confidence, right)[0] < 0.02
    assert calibration.error(confidence, np.zeros(20_000, np.float32))[0] == pytest.approx(
        0.5, abs=0.01
    )
    assert sum(count for *_, count in calibration.reliability(confidence, right)) == 20_000


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_equals_scikit_learns(ties):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0.5, 1, 300), rng.normal(0, 1, 200)
    if ties:
        inside, outside = inside.round(), outside.round()
    value, low, high = calibration.auroc(inside, outside)
    expected = roc_auc_score([1] * 300 + [0] * 200, np.concatenate([inside, outside]))
    assert value == pytest.approx(expected)
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * 0.025, rel=0.25), "Hanley and McNeil's error"
