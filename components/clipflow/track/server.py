"""Where MLflow is, how long a call to it may take, and what its errors become."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipflow.artifacts import lock
from clipflow.checkout import home
from clipflow.errors import TrackingError
from clipflow.log import is_main_process

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

SQLITE = "sqlite:///"
CONNECT_S = 4
"""How long `connect` waits for an answer."""
CALL_S = 10
"""How long a call waits for an answer."""
UPLOAD_S = 60
"""How long a file's upload does: a server passes it on to its storage before it answers."""

# MLflow reads these when it is imported. What the user has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Our own queue is what waits for a server that is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CALL_S),
    # A proxy may ask for a pause of an hour.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}.items():
    os.environ.setdefault(_name, _value)
# Migrations of a new database, and retries: what matters of them we say ourselves.
for _name in ("mlflow.store.db.utils", "mlflow.system_metrics", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def connect() -> None:
    """MLflow answers, or TrackingError within seconds."""
    if not is_main_process():
        return
    with refusals(), _alone(), once(CONNECT_S):
        client().search_experiments(max_results=1)


def _alone() -> AbstractContextManager[Any]:
    """Two processes that make a new database at once would break it: one makes it, the others wait."""
    if not uri().startswith(SQLITE):
        return nullcontext()
    file = Path(uri().removeprefix(SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    return lock.held(file.with_name(f"{file.name}.lock"), wait=True)


def uri() -> str:
    """Where runs and models go."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home() / 'mlflow.db'}"


def place() -> str:
    """`uri()` as it may be shown: without a user and password."""
    return re.sub("(?<=://)[^/@]*@", "", uri())


def client() -> Any:
    """The MLflow client for `uri()`."""
    return _client(uri())


@functools.cache
def _client(uri: str) -> Any:
    """One client per address. Importing MLflow takes seconds, so it happens only when needed."""
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


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
            raise TrackingError(f"MLflow at {place()}: refused: {_refusal(error)}") from error
        advice = (
            "start it, or unset MLFLOW_TRACKING_URI to use mlflow.db here"
            if uri().startswith("http")
            else "check that the file is a database of this MLflow version and can be written"
        )
        raise AwayError(f"MLflow at {place()}: no answer ({_reason(error)}); {advice}") from error


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


def once(seconds: float = CALL_S) -> AbstractContextManager[None]:
    """Have MLflow ask only once, and wait no longer than this (but a second) for the answer.

    What creates something must be in here: if only the answer was lost, asking again creates another.
    """
    return environment(
        MLFLOW_HTTP_REQUEST_TIMEOUT=str(max(1, int(seconds))), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
    )


def uploading() -> AbstractContextManager[None]:
    """Give every answer the time that an upload may take."""
    return once(upload_s())


def upload_s() -> int:
    """UPLOAD_S, or what the user has set if that is longer."""
    return max(UPLOAD_S, int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 0)))


def _refusal(error: MlflowException) -> str:
    """What MLflow said, or what to do about the refusals that a new server or user meets."""
    said = " ".join(str(error).split())[:300]
    if error.get_http_status_code() == 401:
        return (
            "user or password is wrong or missing; set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD"
        )
    if "Invalid Host header" in said:
        return (
            "it doesn't go by this name; add host and port to the server's --allowed-hosts"
            " (MLFLOW_SERVER_ALLOWED_HOSTS), or use a name that is there"
        )
    if "Permission denied" in said:
        return "this user may not do that; ask an administrator of MLflow for the right to EDIT"
    return said


def _reason(error: BaseException) -> str:
    """The name of the error at the bottom: ConnectionRefusedError, TimeoutError, ..."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    name = type(error).__name__
    return name if name != "MlflowException" else " ".join(str(error).split())[:200]
