"""Reading runs back: by id, prefix, name or alias; and their curves."""

from __future__ import annotations

from typing import Any

from clipflow.errors import TrackingError, did_you_mean
from clipflow.track import versions
from clipflow.track.runs import experiment_name
from clipflow.track.server import client, look_up, place, refusals

PAGE = 1000
"""Runs a request."""
SHOWN = 5
"""Candidates that a message names."""


def runs(experiment: str | None = None) -> list[Any]:
    """All runs of an experiment that are not deleted, newest first. Raises TrackingError without one."""
    name = experiment or experiment_name()
    with refusals():
        found = client().get_experiment_by_name(name)
        if found is None:
            known = [one.name for one in client().search_experiments()]
            raise TrackingError(
                f"MLflow at {place()}: no experiment '{name}'; {did_you_mean(name, known)};"
                " pass --experiment NAME"
            )
        every: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = client().search_runs(
                [found.experiment_id],
                order_by=["attributes.start_time DESC"],
                max_results=PAGE,
                page_token=token or None,
            )
            every += page
            token = page.token or None
    return every


def find(text: str, among: list[Any]) -> Any:
    """The one run that `text` means: an id or the beginning of one, a name, or a DVC experiment.

    Raises TrackingError where there is none, or several.
    """
    if exact := look_up(client().get_run, text) if _is_id(text) else None:
        return exact
    named = [
        run
        for run in among
        if text in (run.info.run_name, run.data.tags.get("dvc_exp"))
        and run.info.run_name != f"rewrite-{run.data.tags.get('generator')}"
    ]
    found = named or [run for run in among if run.info.run_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        names = {run.info.run_name for run in among}
        raise TrackingError(
            f"MLflow at {place()}: no run '{text}'; {did_you_mean(text, names)};"
            " pass a run's id, its beginning or name, MODEL@alias, or a report's folder"
        )
    those = ", ".join(f"{run.info.run_id[:8]} {run.info.run_name}" for run in found[:SHOWN])
    raise TrackingError(
        f"MLflow at {place()}: '{text}' is {len(found)} runs ({those}"
        f"{', ...' if len(found) > SHOWN else ''}); pass the beginning of an id"
    )


def behind(name: str) -> Any:
    """The run behind MODEL@alias or MODEL/VERSION. Raises TrackingError without one."""
    version = versions.find(name)
    run = look_up(client().get_run, version.run_id) if version.run_id else None
    if run is None:
        raise TrackingError(
            f"MLflow at {place()}: {name}: version {version.version} names no run that is there; see"
            " 'make ui', Models"
        )
    return run


def history(run_id: str, metric: str) -> list[tuple[int, float]]:
    """`(step, value)` of a metric by step; of a step that was logged twice, the last."""
    with refusals():
        points = client().get_metric_history(run_id, metric)
    latest = {p.step: p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))}
    return sorted(latest.items())


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text)
