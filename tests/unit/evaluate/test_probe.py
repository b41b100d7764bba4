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
    assert probe.answers(train, labels, test, test_labels, 10.0).all()
    noise = np.random.default_rng(2).normal(size=(60, 8)).astype(np.float32)
    assert probe.answers(train, labels, noise, test_labels, 10.0).mean() < 0.6


def test_the_same_inputs_give_the_same_answers():
    data = (*blobs(90, 0, 0.6), *blobs(60, 1, 0.6))
    first, second = (probe.answers(*data, 10.0) for _ in range(2))
    assert first.tolist() == second.tolist()


@pytest.fixture
def seen(monkeypatch):
    """The strengths that are tried, of which 1 is best and 10 ties."""
    found = []

    def answers(x, y, test, test_labels, c):
        found.append((len(x), len(test), c))
        return np.array([True] * round(10 - abs(np.log10(c) - 0.25)) + [False])

    monkeypatch.setattr(probe, "answers", answers)
    return found


def test_the_strength_is_chosen_on_training_samples_alone(seen):
    train, labels = blobs(30, 0, 0.1)
    assert probe.choose(train, labels, [10.0, 0.1, 1.0]) == 1.0
    assert seen == [(24, 6, 0.1), (24, 6, 1.0), (24, 6, 10.0)]


def test_a_sweep_is_refined_around_the_best(seen):
    """As CLIP's: from every second decade to 8 steps per decade."""
    train, labels = blobs(30, 0, 0.1)
    coarse = [10.0**n for n in range(-6, 7, 2)]
    probe.choose(train, labels, coarse, halvings=4)
    tried = np.unique(np.log10([c for *_, c in seen]))
    assert len(seen) == len(tried) <= 7 + 8
    assert np.diff(tried).min() == pytest.approx(1 / 8)


@pytest.mark.parametrize("shots", [1, 4, 50])
def test_few_shots_are_drawn_anew_and_repeatably(shots, monkeypatch):
    rows = []
    monkeypatch.setattr(
        probe, "answers", lambda x, y, *_: rows.append(np.bincount(y).tolist()) or np.ones(2, bool)
    )
    train, labels = blobs(30, 0, 0.1)
    more = {"shots": shots, "draws": 3, "seed": 0}
    found = probe.few_shot(train, labels, train[:2], labels[:2], 1.0, **more)
    assert found.shape == (3, 2)
    assert rows == [[min(shots, 10)] * 3] * 3, "as many of each class, or all there are"


def test_more_examples_help_and_draws_differ():
    train, labels = blobs(300, 0, 0.5)
    test, test_labels = blobs(300, 1, 0.5)
    data = (train, labels, test, test_labels, 10.0)
    one, many = (probe.few_shot(*data, shots=n, draws=4, seed=0).mean(axis=1) for n in (1, 32))
    assert one.mean() < many.mean()
    assert len(set(one.tolist())) > 1
    assert one.tolist() == probe.few_shot(*data, shots=1, draws=4, seed=0).mean(axis=1).tolist()


def test_a_class_too_small_to_hold_out_stays_in_training():
    labels = np.array([0] * 10 + [1] * 2)
    assert probe._held_out(labels).tolist() == [i in (4, 9) for i in range(12)]


@pytest.mark.parametrize("strengths", [[1.0], [0.1, 1.0]])
def test_few_samples_still_give_a_number(strengths):
    x, y = blobs(6, 0, 0.1)
    assert probe.answers(x, y, x, y, probe.choose(x, y, strengths)).shape == (6,)
    assert probe.answers(x, y * 0, x, y, 1.0).mean() == pytest.approx(1 / 3), "a single class"
