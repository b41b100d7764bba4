"""Writing to an MLflow run, and the queue for a server that is away."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest
from clipflow.checkout import home
from clipflow.errors import TrackingError
from clipflow.log import is_main_process
from clipflow.track import server
from clipflow.track.server import AwayError, client, look_up, once, place, refusals, uri

logger = logging.getLogger(__name__)

PAUSE_S = 30.0
"""How long training leaves a server that is away in peace."""
DRAIN_S = 600.0
"""How long the end of a successful run waits for a server that is away: longer than a pod takes to move."""
RACE_PAUSES_S = (0.1, 1.0, 5.0)
"""Pauses before asking again for what parts of one stage all write at the same moment."""
SYSTEM_METRICS_S = 5
"""Seconds between two samples of CPU, memory, disk, network and GPU."""
NO_RUN = "none"
"""The run id where there is no run: on ranks other than 0."""


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
    found = _find(run_id) or _find(os.environ.get("MLFLOW_RUN_ID")) or _create(name, tags)
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
        # Each call and how long it may wait for its answer.
        self._waiting: deque[tuple[Callable[[], None], float]] = deque()
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
        self._write(lambda: client().log_batch(self.id, metrics=batch))

    def log_artifacts(self, source: Path, path: str | None = None) -> None:
        """Upload a file, or a folder's contents, under the run's artifact path `path`."""
        upload = "log_artifacts" if source.is_dir() else "log_artifact"
        self._write(
            lambda: getattr(client(), upload)(self.id, str(source), path), server.upload_s()
        )

    def tag(self, tags: dict[str, str]) -> None:
        """Set tags, replacing those of the same name."""
        self._write(lambda: _log_tags(self.id, tags))

    def watch(self) -> None:
        """Sample the machine's load in a thread, which ends when the server goes away."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._unwatch()
        self._monitor = SystemMetricsMonitor(
            self.id, SYSTEM_METRICS_S, resume_logging=True, tracking_uri=uri()
        )
        self._monitor.start()

    def end(self, status: str) -> None:
        """Give the run its final status."""
        self._unwatch()
        self._write(lambda: client().set_terminated(self.id, status))

    def close(self, patience_s: float) -> None:
        """Send what waits, trying for so long; say what could not be sent."""
        deadline = time.monotonic() + patience_s
        if self._waiting and patience_s > 0:
            logger.info(
                "%d writes wait for MLflow at %s, for %.0f s at most",
                len(self._waiting),
                place(),
                patience_s,
            )
        while self._waiting and not self._sent(deadline) and time.monotonic() < deadline:
            time.sleep(min(2.0, patience_s))
        if self._waiting:
            logger.warning(
                "MLflow at %s is still away: the last %d writes to run %s are lost",
                place(),
                len(self._waiting),
                self.id,
            )

    def _unwatch(self) -> None:
        if self._monitor:
            with once(server.CALL_S):  # it sends what it has left
                self._monitor.finish()
            self._monitor = None

    def _write(self, call: Callable[[], None], timeout_s: float | None = None) -> None:
        if self.id == NO_RUN:
            return
        self._waiting.append((call, timeout_s or server.CALL_S))
        if time.monotonic() >= self._not_before:
            self._sent()

    def _sent(self, deadline: float = math.inf) -> bool:
        """Whether all that waited is now sent; calls a server that is away only until a deadline.

        Raises TrackingError for what the server refuses.
        """
        while self._waiting:
            call, timeout_s = self._waiting[0]
            try:
                with refusals(), once(min(timeout_s, deadline - time.monotonic())):
                    call()
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
            logger.info("MLflow at %s is back: everything is sent", place())
            self._not_before = 0.0
            if self._monitor:
                self.watch()
        return True


def _find(run_id: str | None) -> Any:
    """The MLflow run, or None with a word about it if this server doesn't have it (any more)."""
    if not run_id or run_id == NO_RUN:
        return None
    run = look_up(client().get_run, run_id)
    if run is None or run.info.lifecycle_stage != "active":
        logger.warning("MLflow at %s has no run %s (any more): using another", place(), run_id)
        return None
    return run


def experiment_name() -> str:
    """The MLflow experiment that runs belong to."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "clipflow"


def _create(name: str, tags: dict[str, str] | None = None) -> Any:
    """A new run. It has its tags from the start: if the answer is lost, they tell whose it was."""
    from mlflow.exceptions import MlflowException

    experiment = experiment_name()
    files = (home() / "artifacts/mlflow").as_uri() if uri().startswith("sqlite") else None
    with refusals(), once():
        with suppress(MlflowException):  # it exists; if that is not why, the next line says so
            client().create_experiment(experiment, artifact_location=files)
        found = client().get_experiment_by_name(experiment)
        return client().create_run(found.experiment_id, run_name=name, tags=tags)


def _log_params(run_id: str, params: dict[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in params.items()]
    for first in range(0, len(entries), 100):  # as many as MLflow takes at once
        client().log_batch(run_id, params=entries[first : first + 100])


def _log_tags(run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _log_datasets(run_id: str, datasets: dict[str, Path]) -> None:
    """Name the run's inputs. Asked again where the server refuses a data set that another run names now."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    inputs = [
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
    ]
    for pause_s in RACE_PAUSES_S:
        try:
            client().log_inputs(run_id, inputs)
            return
        except MlflowException as error:
            if "IntegrityError" not in str(error) and "UniqueViolation" not in str(error):
                raise
            time.sleep(pause_s)
    client().log_inputs(run_id, inputs)
