"""The gate to @champion, on numbers worked out by hand."""

import math

import pytest

from clipflow.errors import ParamsError
from clipflow.register.gate import decide
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
