import numpy as np
import pytest

from clipflow.evaluate import probe


def blobs(count, seed, spread):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    points = np.eye(8)[labels] + rng.normal(0, spread, (count, 8))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), labels


def test_separable_features_are_separated_and_noise_is_not():
    train, labels = blobs(90, 0, 0.1)
    test, test_labels = blobs(60, 1, 0.1)
    assert probe.accuracy(train, labels, test, test_labels, [0.1, 10.0]) == 1.0
    noise = np.random.default_rng(2).normal(size=(60, 8)).astype(np.float32)
    assert probe.accuracy(train, labels, noise, test_labels, [0.1, 10.0]) < 0.6


def test_the_same_inputs_give_the_same_number():
    (train, labels), (test, test_labels) = blobs(90, 0, 0.6), blobs(60, 1, 0.6)
    first, second = (
        probe.accuracy(train, labels, test, test_labels, [0.1, 10.0]) for _ in range(2)
    )
    assert first == second


def test_the_strength_is_chosen_on_training_samples_alone(monkeypatch):
    seen = []

    def score(x, y, test, test_labels, c):
        seen.append((len(x), len(test), c))
        return {0.1: 0.5, 1.0: 0.9, 10.0: 0.9}[c]

    monkeypatch.setattr(probe, "_score", score)
    (train, labels), (test, test_labels) = blobs(30, 0, 0.1), blobs(12, 1, 0.1)
    probe.accuracy(train, labels, test, test_labels, [10.0, 0.1, 1.0])
    assert seen == [(24, 6, 0.1), (24, 6, 1.0), (24, 6, 10.0), (30, 12, 1.0)]


def test_a_class_too_small_to_hold_out_stays_in_training():
    labels = np.array([0] * 10 + [1] * 2)
    assert probe._held_out(labels).tolist() == [i in (4, 9) for i in range(12)]


@pytest.mark.parametrize("strengths", [[1.0], [0.1, 1.0]])
def test_few_samples_still_give_a_number(strengths):
    x, y = blobs(6, 0, 0.1)
    assert 0 <= probe.accuracy(x, y, x, y, strengths) <= 1
