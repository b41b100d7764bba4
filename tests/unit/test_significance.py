import numpy as np
import pytest

from clipflow import significance

RNG = np.random.default_rng(0)


def answers(share: float, n: int = 500) -> np.ndarray:
    return (RNG.random(n) < share).astype(np.float32)


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    values = np.repeat([1.0, 0.0], [300, 700])
    found = significance.interval("zero_shot/a/top1", {"zero_shot/a/top1": values})
    assert found
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=0.003)
    assert found.high == pytest.approx(0.3 + half, abs=0.003)


def test_it_holds_the_truth_in_19_of_20_cases() -> None:
    held = 0
    for n in range(200):
        values = np.random.default_rng(n).random(200) < 0.4
        found = significance.interval(f"k/{n}/m", {f"k/{n}/m": values.astype(float)})
        assert found
        held += found.low <= 0.4 <= found.high
    assert 180 <= held <= 199


def test_the_mean_over_tasks_is_surer_than_one_task() -> None:
    samples = {f"zero_shot/{n}/top1": answers(0.5) for n in range(9)} | {
        "zero_shot/0/top5": answers(0.9)
    }
    one = significance.interval("zero_shot/0/top1", samples)
    mean = significance.interval("zero_shot/mean/top1", samples)
    assert one
    assert mean
    assert mean.value == pytest.approx(np.mean([samples[f"zero_shot/{n}/top1"] for n in range(9)]))
    assert (mean.high - mean.low) == pytest.approx((one.high - one.low) / 3, rel=0.15)


def test_both_ways_of_retrieval_are_drawn_together() -> None:
    values = answers(0.5)
    twice = {f"retrieval/c/{way}/recall_at_1": values for way in ("to_text", "to_image")}
    opposite = dict(zip(twice, (values, 1 - values), strict=True))
    same = significance.interval("retrieval/mean/recall_at_1", twice)
    other = significance.interval("retrieval/mean/recall_at_1", opposite)
    assert same
    assert other
    assert same.high - same.low > 0.07
    assert other.high - other.low == 0


def test_pairs_tell_what_two_intervals_cannot() -> None:
    theirs = answers(0.5)
    ours = theirs.copy()
    ours[np.flatnonzero(theirs == 0)[:12]] = 1
    name = "zero_shot/a/top1"
    gain = significance.gain(name, {name: ours}, {name: theirs})
    assert gain
    assert gain.value == pytest.approx(12 / 500)
    assert gain.is_above
    mine, other = (significance.interval(name, {name: values}) for values in (ours, theirs))
    assert mine
    assert other
    assert mine.low < other.high
    assert not significance.gain(name, {name: theirs}, {name: theirs}).is_above  # type: ignore[union-attr]


def test_what_was_not_measured_alike_is_not_compared() -> None:
    name, mean = "zero_shot/a/top1", "zero_shot/mean/top1"
    values = answers(0.5)
    assert significance.gain(name, {name: values}, {}) is None
    assert significance.gain(name, {name: values}, {name: values[1:]}) is None
    assert (
        significance.gain(mean, {name: values, "zero_shot/b/top1": values}, {name: values}) is None
    )
    assert significance.interval("zero_shot/b/top1", {name: values}) is None


def test_the_same_samples_give_the_same_interval() -> None:
    values = {"k/a/m": RNG.normal(size=3000)}
    assert significance.interval("k/a/m", values) == significance.interval("k/a/m", dict(values))
