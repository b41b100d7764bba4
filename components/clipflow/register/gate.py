"""The gate to `@champion`: metrics in, decision and its reasons out. Nothing here knows MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from clipflow import significance
from clipflow.errors import ParamsError, did_you_mean
from clipflow.register.params import Params
from clipflow.significance import LEVEL, Interval, Samples

ROUNDING = 1e-9
"""Differences of fractions are compared up to this: 0.29 - 0.28 falls short of 0.01 in floats."""


@dataclass(frozen=True)
class Decision:
    """Whether a candidate becomes the champion, and why or why not, in sentences."""

    accepted: bool
    reasons: list[str]


def decide(
    candidate: Mapping[str, float],
    champion: Mapping[str, float] | None,
    params: Params,
    *,
    samples: tuple[Samples, Samples] = ({}, {}),
    elsewhere: str | None = None,
    same_checkpoint: bool = False,
) -> Decision:
    """Compare the metrics of a candidate with the champion's; without a champion it needs no more.

    samples: the candidate's and the champion's values per sample. With them the primary metric must surely
    gain more than `min_gain` (its 95 % interval by paired bootstrap lies above), and no guarded metric may
    surely fall by more than `max_drop` (intervals together at 95 %, after Bonferroni, so that many guards
    don't fail one by chance). Metrics that lack them are compared by points.
    elsewhere: the digest of the champion's benchmarks if they are others. Then nothing can be
    compared, and only the champion's own checkpoint, measured anew, takes its place.
    Raises ParamsError if the candidate's report lacks the primary metric.
    """
    primary = params.primary
    if primary not in candidate:
        raise ParamsError(
            f"params: register.primary: the report has no metric '{primary}'; "
            f"{did_you_mean(primary, candidate)}"
        )
    if not math.isfinite(candidate[primary]):
        return Decision(False, [f"{primary} is {candidate[primary]}."])
    if champion is None:
        return Decision(True, [f"There is no champion yet; {primary} is {candidate[primary]:.4f}."])
    if elsewhere and same_checkpoint:
        return Decision(True, ["This is the champion's checkpoint, measured on other benchmarks."])
    if elsewhere:
        return Decision(
            False,
            [
                f"The champion was measured on other benchmarks (digest {elsewhere}); evaluate and"
                " register its checkpoint on these, or choose another register.model."
            ],
        )
    against = _too_little_gain(candidate, champion, params, samples)
    against += _drops(candidate, champion, params, samples)
    if against:
        return Decision(False, against)
    compared = _compared(primary, candidate, champion, significance.gain(primary, *samples))
    surely = " surely" if significance.gain(primary, *samples) else ""
    return Decision(
        True,
        [f"{compared}, and no guarded metric{surely} fell by more than {params.max_drop}."],
    )


def _compared(
    name: str,
    candidate: Mapping[str, float],
    champion: Mapping[str, float],
    gain: Interval | None,
) -> str:
    """`zero_shot/mean/top1 is 0.4523, +0.0210 (95 %: +0.0080 to +0.0340) to the champion's 0.4313`."""
    points = candidate[name] - champion[name]
    sure = f" (95 %: {gain.low:+.4f} to {gain.high:+.4f})" if gain else ""
    return f"{name} is {candidate[name]:.4f}, {points:+.4f}{sure} to the champion's {champion[name]:.4f}"


def _too_little_gain(
    candidate: Mapping[str, float],
    champion: Mapping[str, float],
    params: Params,
    samples: tuple[Samples, Samples],
) -> list[str]:
    primary = params.primary
    if primary not in champion:
        return [f"The champion has no {primary} to compare with; evaluate it anew and register it."]
    gain = significance.gain(primary, *samples)
    compared = _compared(primary, candidate, champion, gain)
    if gain:
        wanted = f"the whole interval above {params.min_gain:+} is asked for"
        return [] if gain.low > params.min_gain else [f"{compared}; {wanted}."]
    if candidate[primary] - champion[primary] >= params.min_gain - ROUNDING:
        return []
    return [f"{compared}; at least {params.min_gain:+} is asked for."]


def _drops(
    candidate: Mapping[str, float],
    champion: Mapping[str, float],
    params: Params,
    samples: tuple[Samples, Samples],
) -> list[str]:
    guarded = [
        name
        for name in sorted(champion)
        if any(fnmatchcase(name, pattern) for pattern in params.guards)
    ]
    level = 1 - (1 - LEVEL) / max(1, len(guarded))
    reasons = []
    for name in guarded:
        if name not in candidate:
            reasons.append(f"{name} is missing; the champion has {champion[name]:.4f}.")
            continue
        drop = champion[name] - candidate[name]
        gain = significance.gain(name, *samples, level=level)
        if gain:
            if gain.high < -params.max_drop:
                reasons.append(
                    f"{name} is {candidate[name]:.4f}, surely below the champion's {champion[name]:.4f}"
                    f" ({gain.low:+.4f} to {gain.high:+.4f}); at most {params.max_drop} is allowed."
                )
            continue
        if not drop <= params.max_drop + ROUNDING:  # `not <=`, so that NaN counts against
            reasons.append(
                f"{name} is {candidate[name]:.4f}, {drop:.4f} below the champion's"
                f" {champion[name]:.4f}; at most {params.max_drop} is allowed."
            )
    return reasons
