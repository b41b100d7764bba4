"""The gate to `@champion`: metrics in, decision and its reasons out. Nothing here knows MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from clipflow.errors import ParamsError, did_you_mean
from clipflow.register.params import Params

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
    elsewhere: str | None = None,
    same_checkpoint: bool = False,
) -> Decision:
    """Compare the metrics of a candidate with the champion's; without a champion it needs no more.

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
    against = _too_little_gain(candidate, champion, params) + _drops(candidate, champion, params)
    if against:
        return Decision(False, against)
    gain = candidate[primary] - champion[primary]
    return Decision(
        True,
        [
            f"{primary} is {candidate[primary]:.4f}, {gain:+.4f} to the champion's"
            f" {champion[primary]:.4f}, and no guarded metric fell by more than {params.max_drop}."
        ],
    )


def _too_little_gain(
    candidate: Mapping[str, float], champion: Mapping[str, float], params: Params
) -> list[str]:
    primary = params.primary
    if primary not in champion:
        return [f"The champion has no {primary} to compare with; evaluate it anew and register it."]
    gain = candidate[primary] - champion[primary]
    if gain >= params.min_gain - ROUNDING:
        return []
    return [
        f"{primary} is {candidate[primary]:.4f}, {gain:+.4f} to the champion's"
        f" {champion[primary]:.4f}; at least {params.min_gain:+} is asked for."
    ]


def _drops(
    candidate: Mapping[str, float], champion: Mapping[str, float], params: Params
) -> list[str]:
    reasons = []
    for name in sorted(champion):
        if not any(fnmatchcase(name, pattern) for pattern in params.guards):
            continue
        if name not in candidate:
            reasons.append(f"{name} is missing; the champion has {champion[name]:.4f}.")
            continue
        drop = champion[name] - candidate[name]
        if not drop <= params.max_drop + ROUNDING:  # `not <=`, so that NaN counts against
            reasons.append(
                f"{name} is {candidate[name]:.4f}, {drop:.4f} below the champion's"
                f" {champion[name]:.4f}; at most {params.max_drop} is allowed."
            )
    return reasons
