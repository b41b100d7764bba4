"""The end of a pipeline run is told where people look."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from clipflow import track
from clipflow.finish.stage import run

RUN = "0f0f0f0f-run"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What a chat server was sent."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CLIPFLOW_WEBHOOK", f"http://127.0.0.1:{server.server_port}/a-secret")
        yield got
        server.shutdown()


@pytest.fixture(autouse=True)
def _run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", RUN)


def status(run_id: str) -> tuple[str, dict[str, str]]:
    found = track.client().get_run(run_id)
    return found.info.status, dict(found.data.tags)


def left_running() -> str:
    """A run as a killed pod leaves it."""
    client = track.client()
    experiment = client.get_experiment_by_name("clipflow")
    number = experiment.experiment_id if experiment else client.create_experiment("clipflow")
    return str(client.create_run(number, tags={"kfp_run_id": RUN}).info.run_id)


def test_a_failure_is_noted_and_what_was_left_running_ends() -> None:
    mine = left_running()
    other = track.client().create_run("0", tags={"kfp_run_id": "another"}).info.run_id
    run(state="FAILED", error="task pretrain\nfailed", job="namespaces/x/runs/y")
    ended, tags = status(mine)
    assert ended == "FAILED"
    assert tags["kfp_state"] == "FAILED"
    assert tags["kfp_error"] == "task pretrain failed"
    assert status(other) == ("RUNNING", status(other)[1])
    assert "kfp_state" not in status(other)[1]


def test_a_success_leaves_finished_runs_as_they_are() -> None:
    mine = left_running()
    track.client().set_terminated(mine, "FINISHED")
    run(state="SUCCEEDED", error="", job=RUN)
    ended, tags = status(mine)
    assert (ended, tags["kfp_state"]) == ("FINISHED", "SUCCEEDED")
    assert "kfp_error" not in tags


def test_a_chat_server_is_told(webhook: list[Any]) -> None:
    run(state="FAILED", error="no memory", job=RUN)
    assert webhook == [{"text": f"pipeline run {RUN}: failed: no memory"}]


def test_servers_that_are_away_are_warnings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("CLIPFLOW_WEBHOOK", "http://127.0.0.1:9/a-secret")
    with caplog.at_level(logging.WARNING, "clipflow"):
        run(state="FAILED", error="no memory", job=RUN)
    assert "not noted in MLflow" in caplog.text
    assert "CLIPFLOW_WEBHOOK not told" in caplog.text
    assert "a-secret" not in caplog.text
