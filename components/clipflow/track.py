"""MLflow runs: parameters, metrics, tags and artifacts, under one lineage key.

Where: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory with its files under
`artifacts/mlflow`. Experiment: `MLFLOW_EXPERIMENT_NAME`, else `clipflow`.

Training must outlive its tracker. `connect` refuses a server that is down before any work starts;
after that, what a run writes while the server is away is kept, in order, and sent once it is back.
On ranks other than 0 everything here does nothing.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest
from clipflow.errors import TrackingError
from clipflow.log import is_main_process

logger = logging.getLogger(__name__)

CONNECT_S = 4
"""How long `connect` waits for an answer."""
LOG_S = 10
"""How long one batch of metrics may hold up training."""
PAUSE_S = 30.0
"""How long training leaves a server that is away in peace."""
DRAIN_S = 60.0
"""How long the end of a successful run waits for a server that is away."""
SYSTEM_METRICS_S = 5
"""Seconds between two samples of CPU, memory, disk, network and GPU."""
NO_RUN = "none"
"""The run id where there is no run: on ranks other than 0."""

# MLflow reads these when it is imported. What the user has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Our own queue is what waits for a server that is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}.items():
    os.environ.setdefault(_name, _value)
# Migrations of a new database, and retries: what matters of them we say ourselves.
for _name in ("mlflow.store.db.utils", "mlflow.system_metrics", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def connect() -> None:
    """MLflow answers, or TrackingError within seconds."""
    if not is_main_process():
        return
    with refusals(), _once(CONNECT_S):
        client().search_experiments(max_results=1)


def uri() -> str:
    """Where runs and models go."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def client() -> Any:
    """The MLflow client for `uri()`."""
    return _client(uri())


@functools.cache
def _client(uri: str) -> Any:
    """One client per address. Importing MLflow takes seconds, so it happens only when needed."""
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


@contextmanager
def start(
    name: str,
    *,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: dict[str, Path],
    run_id: str | None = None,
) -> Iterator[Run]:
    """A running run that ends FINISHED, FAILED after an exception, or KILLED by Ctrl-C or an exit.

    The run is `run_id` if it still exists, else the one that `MLFLOW_RUN_ID` names, else a new one.
    A run that is taken up again keeps the params and the metric steps it has and gains the missing.
    """
    if not is_main_process():
        yield Run()
        return
    found = _find(run_id) or _find(os.environ.get("MLFLOW_RUN_ID")) or _create(name)
    run = Run(found, resumed=True)
    with refusals():
        client().update_run(run.id, status="RUNNING")
        _log_params(run.id, {k: v for k, v in params.items() if k not in found.data.params})
        _log_tags(run.id, tags)
        _log_datasets(run.id, datasets)
    run.watch()
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run.end(status)
        run.close(patience_s=DRAIN_S if status == "FINISHED" else 0)


@contextmanager
def reopen(run_id: str | None, *, name: str) -> Iterator[Run]:
    """The run of an earlier stage, to add to; its status stays as it is.

    If this server doesn't have it (a checkpoint made elsewhere, a database deleted), a new run of
    that `name` takes its place.
    """
    if not is_main_process():
        yield Run()
        return
    found = _find(run_id)
    run = Run(found or _create(name))
    try:
        yield run
    finally:
        if not found:
            run.end("FINISHED")
        run.close(patience_s=DRAIN_S)


class Run:
    """One MLflow run. Writes keep their order; those that the server doesn't take yet wait here."""

    def __init__(self, found: Any = None, *, resumed: bool = False) -> None:
        """Write to an MLflow run, or nowhere; resumed, leave out the metric steps it has."""
        self.id: str = found.info.run_id if found else NO_RUN
        # The latest step of each metric; MLflow shows it only in this form.
        steps = found.data.to_proto().metrics if resumed else []
        self._last_steps = {metric.key: metric.step for metric in steps}
        self._waiting: deque[Callable[[], None]] = deque()
        self._not_before = 0.0
        self._monitor: Any = None

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log one step's metrics in one request, but those logged before a resume."""
        new = {key: value for key, value in metrics.items() if step > self._last_steps.get(key, -1)}
        if not new or self.id == NO_RUN:
            return
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        batch = [Metric(key, float(value), now_ms, step) for key, value in new.items()]
        self._write(lambda: client().log_batch(self.id, metrics=batch), timeout_s=LOG_S)

    def log_artifacts(self, source: Path, path: str | None = None) -> None:
        """Upload a file, or a folder's contents, under the run's artifact path `path`."""
        upload = "log_artifacts" if source.is_dir() else "log_artifact"
        self._write(lambda: getattr(client(), upload)(self.id, str(source), path))

    def tag(self, tags: dict[str, str]) -> None:
        """Set tags, replacing those of the same name."""
        self._write(lambda: _log_tags(self.id, tags))

    def watch(self) -> None:
        """Sample the machine's load in a thread, which ends when the server goes away."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._monitor:
            self._monitor.finish()
        self._monitor = SystemMetricsMonitor(
            self.id, SYSTEM_METRICS_S, resume_logging=True, tracking_uri=uri()
        )
        self._monitor.start()

    def end(self, status: str) -> None:
        """Give the run its final status."""
        if self._monitor:
            self._monitor.finish()
            self._monitor = None
        self._write(lambda: client().set_terminated(self.id, status))

    def close(self, patience_s: float) -> None:
        """Send what waits, trying for so long; say what could not be sent."""
        deadline = time.monotonic() + patience_s
        while self._waiting and not self._sent() and time.monotonic() < deadline:
            time.sleep(min(2.0, patience_s))
        if self._waiting:
            logger.warning(
                "MLflow at %s is still away: the last %d writes to run %s are lost",
                uri(),
                len(self._waiting),
                self.id,
            )

    def _write(self, call: Callable[[], None], timeout_s: int | None = None) -> None:
        if self.id == NO_RUN:
            return
        self._waiting.append(call)
        if time.monotonic() >= self._not_before:
            with _once(timeout_s) if timeout_s else nullcontext():
                self._sent()

    def _sent(self) -> bool:
        """Whether all that waited is now sent. Raises TrackingError for what the server refuses."""
        while self._waiting:
            try:
                with refusals():
                    self._waiting[0]()
            except AwayError as error:
                if not self._not_before:
                    logger.warning("%s; going on, and sending it later", error)
                self._not_before = time.monotonic() + PAUSE_S
                return False
            except TrackingError:
                self._waiting.popleft()
                raise
            self._waiting.popleft()
        if self._not_before:
            logger.info("MLflow at %s is back: everything is sent", uri())
            self._not_before = 0.0
            if self._monitor:
                self.watch()
        return True


class AwayError(TrackingError):
    """The server doesn't answer, or answers that it can't just now: trying later may help."""


@contextmanager
def refusals() -> Iterator[None]:
    """What MLflow raises becomes one line: AwayError where waiting may help, else TrackingError."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException  # type: ignore[import-untyped]

    try:
        yield
    except (MlflowException, RequestException) as error:
        status = error.get_http_status_code() if isinstance(error, MlflowException) else 500
        if status < 500:
            line = " ".join(str(error).split())[:300]
            raise TrackingError(f"MLflow at {uri()}: refused: {line}") from error
        advice = (
            "start it, or unset MLFLOW_TRACKING_URI to use mlflow.db here"
            if uri().startswith("http")
            else "check that the file is a database of this MLflow version and can be written"
        )
        raise AwayError(f"MLflow at {uri()}: no answer ({_reason(error)}); {advice}") from error


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Some environment variables, which is where MLflow reads its settings, for a while."""
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)


def look_up(call: Callable[..., Any], *args: Any) -> Any:
    """What an MLflow look-up returns, or None if there is no such thing."""
    from mlflow.exceptions import MlflowException

    with refusals():
        try:
            return call(*args)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def lineage(inputs: dict[str, Path]) -> dict[str, str]:
    """The key that joins Git, DVC, KFP and MLflow: commit, image, pipeline run, input digests."""
    return {
        "git_sha": os.environ.get("GIT_SHA") or _git_sha(),
        "image_digest": os.environ.get("CLIPFLOW_IMAGE") or "none",
        "kfp_run_id": os.environ.get("KFP_RUN_ID") or "none",
        **{f"{name}_digest": manifest.digest(folder) for name, folder in inputs.items()},
    }


@dataclass(frozen=True)
class Champion:
    """The run behind a registered model's `@champion`."""

    version: str
    run_name: str
    history: list[tuple[int, float]]
    """`(step, value)` of the metric that was asked for, by step."""
    metrics: dict[str, float]
    """The run's final metrics, without those of the machine."""


def champion_history(model: str, metric: str) -> Champion | None:
    """How the champion was trained, or None without such a model, alias or run."""
    if not is_main_process() or (version := aliased(model, "champion")) is None:
        return None
    run = look_up(client().get_run, version.run_id)
    if run is None:
        return None
    with refusals():
        points = client().get_metric_history(version.run_id, metric)
    return Champion(
        version=str(version.version),
        run_name=run.info.run_name,
        history=sorted((point.step, point.value) for point in points),
        metrics={k: v for k, v in run.data.metrics.items() if not k.startswith("system/")},
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
        experiment = client().get_experiment_by_name(_experiment())
        found = client().search_runs(
            [experiment.experiment_id] if experiment else [],
            filter_string=f"metrics.`{with_metric}` >= 0",
            order_by=["attributes.start_time DESC"],
            max_results=limit,
        )
    return [Finished(run.info.run_id, run.info.run_name, dict(run.data.metrics)) for run in found]


def aliased(model: str, alias: str) -> Any:
    """The MLflow model version under an alias, or None."""
    registered = look_up(client().get_registered_model, model)
    number = registered.aliases.get(alias) if registered else None
    return look_up(client().get_model_version, model, str(number)) if number else None


def _find(run_id: str | None) -> Any:
    """The MLflow run, or None with a word about it if this server doesn't have it (any more)."""
    if not run_id or run_id == NO_RUN:
        return None
    run = look_up(client().get_run, run_id)
    if run is None or run.info.lifecycle_stage != "active":
        logger.warning("MLflow at %s has no run %s (any more): using another", uri(), run_id)
        return None
    return run


def _experiment() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "clipflow"


def _create(name: str) -> Any:
    from mlflow.exceptions import MlflowException

    experiment = _experiment()
    files = Path("artifacts/mlflow").absolute().as_uri() if uri().startswith("sqlite") else None
    with refusals():
        with suppress(MlflowException):  # it exists; if that is not why, the next line says so
            client().create_experiment(experiment, artifact_location=files)
        found = client().get_experiment_by_name(experiment)
        return client().create_run(found.experiment_id, run_name=name)


def _log_params(run_id: str, params: dict[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in params.items()]
    for first in range(0, len(entries), 100):  # as many as MLflow takes at once
        client().log_batch(run_id, params=entries[first : first + 100])


def _log_tags(run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _log_datasets(run_id: str, datasets: dict[str, Path]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client().log_inputs(
        run_id,
        [
            DatasetInput(
                Dataset(
                    name=name,
                    digest=manifest.digest(folder),
                    source_type="local",
                    source=json.dumps({"uri": str(folder)}),
                ),
                tags=[InputTag("mlflow.data.context", "training")],
            )
            for name, folder in datasets.items()
        ],
    )


def _once(seconds: int) -> AbstractContextManager[None]:
    """Have MLflow ask only once, and wait no longer than this for the answer."""
    return environment(
        MLFLOW_HTTP_REQUEST_TIMEOUT=str(seconds), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
    )


def _reason(error: BaseException) -> str:
    """The name of the error at the bottom: ConnectionRefusedError, TimeoutError, ..."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    name = type(error).__name__
    return name if name != "MlflowException" else " ".join(str(error).split())[:200]


def _git_sha() -> str:
    """The commit of the working directory; `-dirty` if anything but DVC's own lock file differs."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}-dirty" if _git("status", "--porcelain", "--", ":(exclude)dvc.lock") else head


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
