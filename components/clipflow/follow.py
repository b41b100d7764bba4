"""Follow a run to its end: a line when a task's state changes, and at the end the run's.

A server that is away for a while does not end the run, so it does not end following it.
"""

from __future__ import annotations

import time
from typing import Any

import click
import kfp_server_api  # type: ignore[import-untyped]
import urllib3

PAUSE_S = 5.0
PATIENCE_S = 600.0
"""Time for which the server may be away."""
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
PASSING = {408, 429, 500, 502, 503, 504}


def follow(client: Any, run_id: str) -> bool:
    """Whether the run succeeded. Raises kfp's error if the server stays away or refuses."""
    states: dict[str, str] = {}
    try:
        while True:
            run = _get(client, run_id)
            details = (run.run_details and run.run_details.task_details) or []
            for task in details:
                if task.state and states.get(task.task_id) != task.state:
                    states[task.task_id] = task.state
                    done = sum(state in ENDED for state in states.values())
                    click.echo(f"{task.display_name}: {task.state} ({done}/{len(details)} ended)")
            if run.state in ENDED:
                click.echo(f"Run is finished with state {run.state}.")
                return bool(run.state == "SUCCEEDED")
            time.sleep(PAUSE_S)
    except KeyboardInterrupt:
        click.echo(f"The run goes on; to stop it: kfp run terminate {run_id}", err=True)
        raise


def _get(client: Any, run_id: str) -> Any:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.get_run(run_id)
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
            lasting = getattr(error, "status", 503) not in PASSING
            if lasting or time.monotonic() > give_up:
                raise
            click.echo("Kubeflow Pipelines is away; asking again", err=True)
            time.sleep(PAUSE_S)
