"""Runs in groups of equal params: means over seeds, and gains over a baseline paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from clipflow.compare.differences import Verdict, differing, verdict
from clipflow.compare.sides import MEASURED
from clipflow.errors import ParamsError, TrackingError, did_you_mean
from clipflow.significance import LEVEL, Interval

MAIN = (
    "zero_shot/mean/top1",
    "zero_shot/mean/top1_canonical",
    "zero_shot/mean/top1_synonyms",
    "linear_probe/mean/top1",
    "retrieval/mean/recall_at_1",
)
"""What is shown unless asked otherwise, as far as it was measured."""
SEED = "seed"


@dataclass(frozen=True)
class Gain:
    """What a group gains over the baseline in one metric, in fractions."""

    mean: float
    interval: Interval | None
    """Of the mean, with 95 % confidence (Student's t over seeds); None with fewer than two pairs."""
    num_pairs: int
    """Seeds that both have; 0 if none is, and the means were subtracted."""
    num_above: int
    """Pairs in which the group is better."""
    verdict: Verdict


@dataclass(frozen=True)
class Cell:
    """A metric of a group."""

    values: dict[str, float]
    """By seed."""
    mean: float
    deviation: float | None
    """Standard deviation over seeds (n - 1); None for one seed."""
    gain: Gain | None


@dataclass(frozen=True)
class Group:
    """Runs with the same values of the params that were asked for."""

    name: str
    run_ids: dict[str, str]
    """By seed."""
    cells: dict[str, Cell]
    is_baseline: bool


@dataclass(frozen=True)
class Groups:
    """All groups, the baseline first, and what has to be known to read them."""

    keys: list[str]
    """What the runs are grouped by."""
    metrics: list[str]
    groups: list[Group]
    notes: list[str]


def flat_name(name: str, known: Sequence[str]) -> str:
    """The name that MLflow has for a param: `recipe` is `recipe.name`, `pretrain.lr` is `lr`.

    Raises ParamsError for one that no run has.
    """
    bare = name.removeprefix("pretrain.")
    for candidate in (bare, f"{bare}.name"):
        if candidate in known:
            return candidate
    raise ParamsError(f"param '{name}': no run has it; {did_you_mean(bare, known)}")


def group(
    runs: Sequence[Any],
    keys: Sequence[str],
    *,
    metrics: Sequence[str] = (),
    baseline: str | None = None,
    where: dict[str, str] | None = None,
    benchmarks: Callable[[Any], str | None] = lambda run: None,
) -> Groups:
    """Group MLflow runs, newest first, by params.

    Of runs with the same group and seed the newest counts. baseline: the group that gains are over, by
    its name; without one, the first by name. where: params that runs must have. benchmarks: the digest of
    what a run was measured on; runs that were measured on others than the newest one are left out.
    Raises ParamsError for an unknown param, metric or baseline, TrackingError if no run is left.
    """
    runs = [
        r for r in runs if r.info.status == "FINISHED" and any(map(MEASURED.match, r.data.metrics))
    ]
    if not runs:
        raise TrackingError("no finished run of this experiment has been evaluated; see 'make ui'")
    known = sorted({name for run in runs for name in run.data.params})
    names = [flat_name(key, known) for key in keys]
    for key, value in (where or {}).items():
        runs = [r for r in runs if r.data.params.get(flat_name(key, known)) == value]
    if not runs:
        wanted = ", ".join(f"{key}={value}" for key, value in (where or {}).items())
        raise ParamsError(f"--where {wanted}: no finished run has these; leave one out")
    measured_on = {run.info.run_id: benchmarks(run) for run in runs}
    newest = measured_on[runs[0].info.run_id]
    same = [run for run in runs if measured_on[run.info.run_id] == newest]
    elsewhere, runs = len(runs) - len(same), same
    shown = _metrics(runs, metrics)
    by_group: dict[str, dict[str, Any]] = {}
    repeated = 0
    for run in runs:
        name = ", ".join(_said(key, run.data.params.get(key)) for key in names)
        seeds = by_group.setdefault(name, {})
        seed = run.data.params.get(SEED, run.info.run_id[:8])
        repeated += seed in seeds
        seeds.setdefault(seed, run)
    kept = [run for seeds in by_group.values() for run in seeds.values()]
    notes = _notes(kept, {*names, SEED}, repeated, elsewhere)
    order = sorted(by_group, key=_natural)
    if baseline is not None and baseline not in by_group:
        raise ParamsError(f"--baseline: no group '{baseline}'; {did_you_mean(baseline, by_group)}")
    base = baseline or order[0]
    order.sort(key=lambda name: name != base)
    groups = [_group(name, by_group[name], by_group[base], shown, name == base) for name in order]
    return Groups([key.removesuffix(".name") for key in names], shown, groups, notes)


def _metrics(runs: Sequence[Any], wanted: Sequence[str]) -> list[str]:
    known = {name for run in runs for name in run.data.metrics if MEASURED.match(name)}
    for name in wanted:
        if name not in known:
            raise ParamsError(f"--metric: no run has '{name}'; {did_you_mean(name, known)}")
    return list(wanted) or [name for name in MAIN if name in known] or sorted(known)[: len(MAIN)]


def _said(key: str, value: str | None) -> str:
    """`laclip` for a recipe, `lr 0.001` for what needs its name."""
    return str(value) if key.endswith(".name") else f"{key} {value}"


def _natural(name: str) -> tuple[tuple[bool, float, str], ...]:
    """So that lr 0.0005 comes before lr 0.001, and 64 before 128."""
    return tuple((False, float(w), "") if _is_number(w) else (True, 0.0, w) for w in name.split())


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _notes(runs: Sequence[Any], told: set[str], repeated: int, elsewhere: int) -> list[str]:
    notes = []
    if elsewhere:
        notes.append(f"{elsewhere} runs were measured on other benchmarks and are left out.")
    if repeated:
        notes.append(f"{repeated} earlier runs of the same group and seed are left out.")
    own = "recipe."  # what a recipe has of its own differs with it
    others = {k: v for k, v in differing([r.data.params for r in runs]).items() if k not in told}
    if others := {
        k: v for k, v in others.items() if not ("recipe.name" in told and k.startswith(own))
    }:
        named = "; ".join(
            f"{key}: {', '.join(sorted({str(v) for v in values}))}"
            for key, values in others.items()
        )
        notes.append(
            f"Other params differ among these runs ({named}), so gains may be theirs:"
            " add --group-by PARAM, or --where PARAM=VALUE."
        )
    for tag in ("pairs_digest", "rewrites_digest"):
        if len({run.data.tags.get(tag) for run in runs}) > 1:
            notes.append(f"These runs were trained on different {tag.removesuffix('_digest')}.")
    return notes


def _group(
    name: str, runs: dict[str, Any], base: dict[str, Any], shown: Sequence[str], is_base: bool
) -> Group:
    cells = {}
    for metric in shown:
        values = _values(runs, metric)
        if values:
            deviation = stdev(values.values()) if len(values) > 1 else None
            found = None if is_base else gain(metric, values, _values(base, metric))
            cells[metric] = Cell(values, fmean(values.values()), deviation, found)
    ids = {seed: runs[seed].info.run_id for seed in sorted(runs, key=_natural)}
    return Group(name, ids, cells, is_base)


def _values(runs: dict[str, Any], metric: str) -> dict[str, float]:
    found = {s: r.data.metrics[metric] for s, r in runs.items() if metric in r.data.metrics}
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def gain(metric: str, ours: dict[str, float], theirs: dict[str, float]) -> Gain | None:
    """The mean gain over the seeds that both have, else of the means; None without values."""
    if not ours or not theirs:
        return None
    pairs = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
    if not pairs:
        return Gain(fmean(ours.values()) - fmean(theirs.values()), None, 0, 0, "unknown")
    mean, sure = fmean(pairs), None
    if len(pairs) > 1:
        from scipy.stats import t

        half = float(t.ppf((1 + LEVEL) / 2, len(pairs) - 1)) * stdev(pairs) / len(pairs) ** 0.5
        sure = Interval(mean, mean - half, mean + half)
    is_better = [verdict(metric, Interval(d, d, d)) == "better" for d in pairs]
    return Gain(mean, sure, len(pairs), sum(is_better), verdict(metric, sure))
