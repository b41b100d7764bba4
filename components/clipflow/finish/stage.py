"""finish: how a pipeline run ended, told where people look."""

from __future__ import annotations

import json
import logging
import os
import urllib.request

from clipflow import track
from clipflow.errors import TrackingError

logger = logging.getLogger(__name__)

SUCCEEDED = "SUCCEEDED"
WEBHOOK_S = 10
"""How long a webhook may take."""


def run(*, state: str, error: str | None, job: str) -> None:
    """Log the end of a run; tag its MLflow runs with it, and end those that a killed pod left running.

    `state`, `error` and `job` (its last part is the run's id) are what Kubeflow knows of the run. A server
    that is away is a warning: this is the last task, and what it reports has happened.
    """
    run_id = os.environ.get("KFP_RUN_ID") or job.rpartition("/")[2]
    text = f"pipeline run {run_id}: {state.lower()}" + (f": {_line(error)}" if error else "")
    logger.log(logging.INFO if state == SUCCEEDED else logging.ERROR, "%s", text)
    try:
        track.connect()
        num = track.end_of_pipeline(run_id, state, _line(error))
        logger.info("noted on %d MLflow runs", num)
    except TrackingError as problem:
        logger.warning("not noted in MLflow: %s", problem)
    if address := os.environ.get("CLIPFLOW_WEBHOOK"):
        _post(address, text)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())[:500]


def _post(address: str, text: str) -> None:
    """Send `{"text": ...}`, as chat servers take it. The address is a secret and stays out of the log."""
    request = urllib.request.Request(
        address,
        data=json.dumps({"text": text}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_S):
            pass
    except (OSError, ValueError) as problem:
        logger.warning("CLIPFLOW_WEBHOOK not told: %s", type(problem).__name__)
