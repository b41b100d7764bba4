"""What earlier runs and registered versions say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipflow.log import is_main_process
from clipflow.track.runs import experiment_name
from clipflow.track.server import client, look_up, refusals

BENCHMARKS = "benchmarks_digest"
"""Version tag: what its metrics were measured on."""
ROLLED_BACK = "rolled_back"
"""Version tag: why it is the champion no more."""
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
"""Aliases: the latest version, the best one, and the one that was the best before it."""


@dataclass(frozen=True)
class Champion:
    """The run behind a registered model's `@champion`."""

    version: str
    run_name: str
    benchmarks: str | None
    """The digest of the benchmarks that it was measured on, if that was noted."""
    history: list[tuple[int, float]]
    """`(step, value)` of the metric that was asked for, by step."""
    metrics: dict[str, float]
    """The run's final metrics, without those of the machine."""
    run_id: str = ""


def champion_history(model: str, metric: str) -> Champion | None:
    """How the champion was trained, or None without such a model, alias or run."""
    if not is_main_process() or (version := aliased(model, CHAMPION)) is None:
        return None
    run = look_up(client().get_run, version.run_id)
    if run is None:
        return None
    with refusals():
        points = client().get_metric_history(version.run_id, metric)
    return Champion(
        version=str(version.version),
        run_name=run.info.run_name,
        benchmarks=version.tags.get(BENCHMARKS),
        history=sorted((point.step, point.value) for point in points),
        metrics={k: v for k, v in run.data.metrics.items() if not k.startswith("system/")},
        run_id=version.run_id,
    )


@dataclass(frozen=True)
class Finished:
    """A run that has been measured."""

    id: str
    name: str
    metrics: dict[str, float]


def finished_runs(*, with_metric: str, limit: int) -> list[Finished]:
    """The latest runs of the experiment that have the metric, newest first."""
    with refusals():
        experiment = client().get_experiment_by_name(experiment_name())
        found = client().search_runs(
            [experiment.experiment_id] if experiment else [],
            filter_string=f"metrics.`{with_metric}` >= 0",
            order_by=["attributes.start_time DESC"],
            max_results=limit,
        )
    return [Finished(run.info.run_id, run.info.run_name, dict(run.data.metrics)) for run in found]


def end_of_pipeline(kfp_run_id: str, state: str, error: str) -> int:
    """Tag all runs of a pipeline run with its end; end those that still are running. Their number."""
    with refusals():
        ids = [found.experiment_id for found in client().search_experiments()]
        wanted = f"tags.kfp_run_id = '{kfp_run_id}'"
        runs = list(client().search_runs(ids, filter_string=wanted, max_results=1000))
        for run in runs:
            client().set_tag(run.info.run_id, "kfp_state", state)
            if error:
                client().set_tag(run.info.run_id, "kfp_error", error)
            if run.info.status == "RUNNING":
                client().set_terminated(run.info.run_id, "FAILED")
    return len(runs)


def registered(model: str, tags: dict[str, str]) -> Any:
    """The MLflow model version with these tags, or None."""
    wanted = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
    with refusals():
        found = client().search_model_versions(f"name = '{model}' and {wanted}")
    return found[0] if found else None


def aliased(model: str, alias: str) -> Any:
    """The MLflow model version under an alias, or None."""
    found = look_up(client().get_registered_model, model)
    number = found.aliases.get(alias) if found else None
    return look_up(client().get_model_version, model, str(number)) if number else None


def promote(version: Any) -> None:
    """`@champion` to the version, and `@previous` to the one that it dethrones; nothing if it has it."""
    held = aliased(version.name, CHAMPION)
    if held and str(held.version) == str(version.version):
        return
    if held:  # first: if this is interrupted, who does it again still finds the champion
        client().set_registered_model_alias(version.name, PREVIOUS, held.version)
    client().set_registered_model_alias(version.name, CHAMPION, version.version)


def aliases(version: Any) -> list[str]:
    """The aliases of an MLflow model version, as they are now."""
    found = look_up(client().get_registered_model, version.name)
    numbers = found.aliases if found else {}
    return sorted(a for a, number in numbers.items() if str(number) == str(version.version))
