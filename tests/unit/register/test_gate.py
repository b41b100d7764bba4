"""The gate to @champion, on numbers worked out by hand."""

import math
import re

import numpy as np
import pytest

from clipflow.errors import ParamsError
from clipflow.register.gate import Decision, decide
from clipflow.register.params import Params

PARAMS = Params(
    model="m", primary="zs/mean", min_gain=0.01, max_drop=0.05, guards=["zs/*", "probe/color"]
)
CHAMPION = {"zs/mean": 0.28, "zs/color": 0.40, "probe/color": 0.70, "probe/shape": 0.90}


def test_without_champion() -> None:
    decision = decide({"zs/mean": 0.1}, None, PARAMS)
    assert decision.accepted
    assert decision.reasons == ["There is no champion yet; zs/mean is 0.1000."]


def test_gain_and_drop_exactly_at_their_limits_are_accepted() -> None:
    # In floats 0.29 - 0.28 is 0.00999... and 0.40 - 0.35 is 0.05000...4: rounding must not decide.
    candidate = {"zs/mean": 0.29, "zs/color": 0.35, "probe/color": 0.65, "probe/shape": 0.90}
    decision = decide(candidate, CHAMPION, PARAMS)
    assert decision.accepted
    assert decision.reasons == [
        "zs/mean is 0.2900, +0.0100 to the champion's 0.2800,"
        " and no guarded metric fell by more than 0.05."
    ]


def test_too_little_gain() -> None:
    decision = decide({**CHAMPION, "zs/mean": 0.285}, CHAMPION, PARAMS)
    assert not decision.accepted
    assert decision.reasons == [
        "zs/mean is 0.2850, +0.0050 to the champion's 0.2800; at least +0.01 is asked for."
    ]


def test_every_drop_is_named_and_unguarded_metrics_may_fall() -> None:
    candidate = {"zs/mean": 0.40, "zs/color": 0.30, "probe/color": 0.60, "probe/shape": 0.10}
    decision = decide(candidate, CHAMPION, PARAMS)
    assert not decision.accepted
    assert decision.reasons == [
        "probe/color is 0.6000, 0.1000 below the champion's 0.7000; at most 0.05 is allowed.",
        "zs/color is 0.3000, 0.1000 below the champion's 0.4000; at most 0.05 is allowed.",
    ]


def test_a_guarded_metric_that_is_missing_counts_against() -> None:
    decision = decide({"zs/mean": 0.40, "probe/color": 0.70}, CHAMPION, PARAMS)
    assert not decision.accepted
    assert decision.reasons == ["zs/color is missing; the champion has 0.4000."]


def test_metrics_that_only_the_candidate_has_are_fine() -> None:
    assert decide({**CHAMPION, "zs/mean": 0.5, "zs/new": 0.0}, CHAMPION, PARAMS).accepted


def test_a_champion_without_the_primary_metric_keeps_the_alias() -> None:
    decision = decide({"zs/mean": 0.40}, {"other": 1.0}, PARAMS)
    assert not decision.accepted
    assert "The champion has no zs/mean" in decision.reasons[0]


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_nan_is_never_accepted(champion: dict[str, float] | None) -> None:
    assert not decide({**CHAMPION, "zs/mean": math.nan}, champion, PARAMS).accepted
    assert not decide({**CHAMPION, "zs/mean": 0.5, "zs/color": math.nan}, CHAMPION, PARAMS).accepted


def test_metrics_from_other_benchmarks_are_not_compared() -> None:
    better, worse = {**CHAMPION, "zs/mean": 0.9}, {**CHAMPION, "zs/mean": 0.1}
    decision = decide(better, CHAMPION, PARAMS, elsewhere="abc")
    assert not decision.accepted
    assert "on other benchmarks (digest abc)" in decision.reasons[0]
    assert decide(worse, CHAMPION, PARAMS, elsewhere="abc", same_checkpoint=True).accepted
    assert not decide(worse, CHAMPION, PARAMS, same_checkpoint=True).accepted


def test_unknown_primary_metric_is_an_error_that_names_the_closest() -> None:
    with pytest.raises(ParamsError, match=r"no metric 'zs/mean'; did you mean 'zs/men'\?"):
        decide({"zs/men": 0.4}, None, PARAMS)


RNG = np.random.default_rng(0)
THEIRS = {f"zs/{task}/top1": (RNG.random(1000) < 0.4).astype(np.float32) for task in "abcd"}
SURE = Params(model="m", primary="zs/mean/top1", min_gain=0.0, max_drop=0.02, guards=["zs/*/top1"])


def better(samples: dict[str, np.ndarray], task: str, count: int) -> dict[str, np.ndarray]:
    """So many more answers of a task are right; or less, below zero."""
    name, changed = f"zs/{task}/top1", samples[f"zs/{task}/top1"].copy()
    changed[np.flatnonzero(changed == (count < 0))[: abs(count)]] = float(count > 0)
    return {**samples, name: changed}


def judged(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray] = THEIRS) -> Decision:
    def metrics(samples: dict[str, np.ndarray]) -> dict[str, float]:
        found = {name: float(values.mean()) for name, values in samples.items()}
        return found | {"zs/mean/top1": sum(found.values()) / len(found)}

    return decide(metrics(ours), metrics(theirs), SURE, samples=(ours, theirs))


def test_a_sure_gain_is_accepted_with_its_interval() -> None:
    decision = judged(better(THEIRS, "a", 100))
    assert decision.accepted
    assert re.search(r"\+0\.0250 \(95 %: \+0\.0\d+ to \+0\.0\d+\)", decision.reasons[0])
    assert "no guarded metric surely fell by more than 0.02" in decision.reasons[0]


def test_a_gain_that_may_be_chance_is_not() -> None:
    decision = judged(better(better(THEIRS, "a", 30), "b", -25))
    assert not decision.accepted
    assert "+0.0012 (95 %: -0.0" in decision.reasons[0]
    assert decision.reasons[0].endswith("the whole interval above +0.0 is asked for.")
    assert not judged(THEIRS).accepted, "the same answers"


def test_a_guard_fails_by_what_is_sure() -> None:
    gained = better(THEIRS, "a", 200)
    assert judged(better(gained, "b", -25)).accepted, "2.5 points, perhaps less than 2"
    decision = judged(better(gained, "b", -60))
    assert not decision.accepted
    assert "zs/b/top1 is" in decision.reasons[0]
    assert "surely below the champion's" in decision.reasons[0]


def test_many_guards_together_let_few_equals_fall_by_chance() -> None:
    """Twenty guards, each with another model's answers of the same quality: 5 % fail, not 40."""
    failed = 0
    params = SURE.model_copy(update={"max_drop": 0.0, "primary": "zs/p/top1"})
    for seed in range(100):
        rng = np.random.default_rng(seed)
        ours, theirs = (
            {f"zs/{n}/top1": (rng.random(200) < 0.5).astype(np.float32) for n in range(20)}
            for _ in range(2)
        )
        ours["zs/p/top1"], theirs["zs/p/top1"] = np.ones(200), np.zeros(200)
        metrics = [{n: float(v.mean()) for n, v in samples.items()} for samples in (ours, theirs)]
        failed += not decide(*metrics, params, samples=(ours, theirs)).accepted
    assert failed <= 12
