"""MLflow as the cluster runs it: the manifests' commands, a real PostgreSQL, an object store, accounts.

    make test-services

Not part of the suite, as it needs PostgreSQL's programs and minutes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipflow import track
from clipflow.errors import TrackingError
from clipflow.track import runs
from fakes import mlflow_server, postgres, s3

CLIENT = """
import sys
from pathlib import Path
from clipflow import track
name = sys.argv[1]
note = Path(name)
note.write_text(name)
with track.start(name, params={f"p{n}": n for n in range(120)}, tags={}, datasets={}) as run:
    for step in range(30):
        run.log({"train/loss": step / 2, "train/lr": 0.1}, step)
    run.log_artifacts(note, "notes")
client = track.client()
version = client.create_model_version("shared", source=f"runs:/{run.id}/notes", run_id=run.id)
print(run.id, version.version)
"""


@pytest.fixture(scope="module")
def store() -> Iterator[s3.Store]:
    with s3.serve() as running:
        running.make_bucket("clipflow")
        yield running


@pytest.fixture(scope="module")
def server(store: s3.Store) -> Iterator[mlflow_server.Server]:
    with postgres.serve() as database, mlflow_server.serve(database, store) as running:
        yield running


@pytest.fixture(autouse=True)
def _environ(server: mlflow_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in server.client_environ.items():
        monkeypatch.setenv(name, value)


def steps(run_id: str, metric: str) -> list[int]:
    return [point.step for point in track.client().get_metric_history(run_id, metric)]


def test_two_clients_at_once(store: s3.Store) -> None:
    track.client().create_registered_model("shared")
    clients = [
        subprocess.Popen([sys.executable, "-c", CLIENT, name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "other")
    ]
    answers = [client.communicate()[0].split() for client in clients]
    assert [client.returncode for client in clients] == [0, 0]
    for name, (run_id, _) in zip(("one", "other"), answers, strict=True):
        found = track.client().get_run(run_id)
        assert (found.info.run_name, found.info.status) == (name, "FINISHED")
        assert len(found.data.params) == 120
        assert sorted(steps(run_id, "train/loss")) == list(range(30))
        (note,) = (key for key in store.objects("clipflow", "mlflow/") if run_id in key)
        body = store.client().get_object(Bucket="clipflow", Key=note)["Body"].read()
        assert body == name.encode()
    assert sorted(version for _, version in answers) == ["1", "2"]


def test_a_server_killed_in_the_middle_of_a_run_loses_nothing(
    server: mlflow_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PAUSE_S", 0.5)
    monkeypatch.setattr(runs, "DRAIN_S", 120.0)
    with track.start("killed", params={"a": 1}, tags={"b": "c"}, datasets={}) as run:
        for step in range(10):
            run.log({"train/loss": float(step)}, step)
            if step == 3:
                server.kill()
            if step == 6:
                server.start(wait=False)
    server.wait()
    assert sorted(steps(run.id, "train/loss")) == list(range(10))
    found = track.client().get_run(run.id)
    assert found.info.status == "FINISHED"
    assert (found.data.params, found.data.tags["b"]) == ({"a": "1"}, "c")


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI"])
def test_a_wrong_password_or_host_is_one_line(
    name: str, server: mlflow_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {
        "MLFLOW_TRACKING_PASSWORD": "not-the-password",
        "MLFLOW_TRACKING_URI": f"http://localhost:{server.port}",  # not an allowed host
    }
    monkeypatch.setenv(name, wrong[name])
    with pytest.raises(TrackingError, match="refused") as refused:
        track.connect()
    assert "\n" not in str(refused.value)
    assert "not-the-password" not in str(refused.value)
