"""Runs in a real MLflow database, and a server that is down."""

import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipflow import track
from clipflow.artifacts import manifest
from clipflow.errors import TrackingError
from clipflow.track import runs, server


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME",
        "RANK", "GIT_SHA", "CLIPFLOW_IMAGE", "KFP_RUN_ID",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    manifest.write(folder, "clipflow.pairs/1", num_pairs=3)
    return folder


def steps(run_id: str, metric: str) -> list[tuple[int, float]]:
    history = track.client().get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in history)


def test_a_run_and_its_resumption(pairs: Path) -> None:
    params = {f"key{n}": n for n in range(101)}  # more than MLflow takes at once
    with (
        suppress(ZeroDivisionError),
        track.start(
            "laclip", params=params, tags={"git_sha": "a"}, datasets={"pairs": pairs}
        ) as run,
    ):
        run.log({"loss": 3.0, "lr": 0.1}, 10)
        run.log({"loss": 2.0, "lr": 0.1}, 20)
        run.log_artifacts(pairs, "inputs")
        raise ZeroDivisionError
    found = track.client().get_run(run.id)
    assert found.info.status == "FAILED"
    assert found.info.run_name == "laclip"
    assert len(found.data.params) == 101
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("pairs", manifest.digest(pairs))
    assert [f.path for f in track.client().list_artifacts(run.id, "inputs")] == [
        "inputs/manifest.json"
    ]

    # Resumed from a state older than what was logged: step 20 comes again and is left out.
    changed = {"key0": "changed", "new": 1}
    with track.start(
        "laclip", params=changed, tags={"git_sha": "b"}, datasets={}, run_id=run.id
    ) as resumed:
        resumed.log({"loss": 9.0, "lr": 0.9}, 20)
        resumed.log({"loss": 1.0, "grad_norm": 5.0}, 30)
    assert resumed.id == run.id
    assert steps(run.id, "loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]
    assert steps(run.id, "lr") == [(10, 0.1), (20, 0.1)]
    found = track.client().get_run(run.id)
    assert found.info.status == "FINISHED"
    assert (found.data.params["key0"], found.data.params["new"]) == ("0", "1")
    assert found.data.tags["git_sha"] == "b"
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["artifacts", "mlflow.db", "pairs"]


def test_an_interrupted_run_is_killed_and_samples_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "SYSTEM_METRICS_S", 0.2)
    with (
        suppress(KeyboardInterrupt),
        track.start("laclip", params={}, tags={}, datasets={}) as run,
    ):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not steps(run.id, "system/disk_usage_percentage"):
            time.sleep(0.2)
        raise KeyboardInterrupt
    assert track.client().get_run(run.id).info.status == "KILLED"
    assert steps(run.id, "system/disk_usage_percentage")


def test_injected_run_and_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "paper")
    with track.start("first", params={}, tags={}, datasets={}) as injected:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", injected.id)
    with track.start("second", params={"a": 1}, tags={}, datasets={}) as run:
        assert run.id == injected.id
    experiment = track.client().get_experiment_by_name("paper")
    assert experiment.artifact_location.endswith("/artifacts/mlflow")
    assert track.client().get_run(run.id).data.params == {"a": "1"}


def test_reopen_keeps_the_status_and_outlives_a_lost_run(caplog: pytest.LogCaptureFixture) -> None:
    with track.start("laclip", params={}, tags={}, datasets={}) as trained:
        pass
    with track.reopen(trained.id, name="laclip") as run:
        run.log({"zero_shot": 0.4}, 10)
    with track.reopen(trained.id, name="laclip") as run:
        run.log({"zero_shot": 0.5}, 10)  # measured anew: the later value counts
        run.tag({"registered_model": "m"})
    found = track.client().get_run(trained.id)
    assert (run.id, found.info.status, found.data.metrics["zero_shot"]) == (
        trained.id, "FINISHED", 0.5,
    )  # fmt: skip

    with caplog.at_level(logging.WARNING), track.reopen("0" * 32, name="elsewhere") as other:
        other.log({"zero_shot": 0.5}, 10)
    found = track.client().get_run(other.id)
    assert (found.info.run_name, found.info.status) == ("elsewhere", "FINISHED")
    assert "has no run 00000000000000000000000000000000" in caplog.text


def test_a_server_that_is_down_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    track.client()  # importing MLflow is not what is timed
    start = time.monotonic()
    with pytest.raises(TrackingError, match=r"no answer \(ConnectionRefusedError\); start it, or"):
        track.connect()
    assert time.monotonic() - start < 3


def test_a_server_that_never_answers_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
        track.client()
        start = time.monotonic()
        with pytest.raises(TrackingError, match=r"no answer \(TimeoutError\)"):
            track.connect()
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("limit", ["CALL_S", "UPLOAD_S"])
def test_a_server_that_stops_answering_holds_a_write_up_for_seconds(
    monkeypatch: pytest.MonkeyPatch, pairs: Path, limit: str
) -> None:
    monkeypatch.setattr(server, limit, 1)
    monkeypatch.setattr(runs, "DRAIN_S", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if limit == "UPLOAD_S" else "60")
    with socket.create_server(("127.0.0.1", 0)) as listener, track.reopen(None, name="x") as run:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
        start = time.monotonic()
        run.tag({"a": "b"}) if limit == "CALL_S" else run.log_artifacts(pairs)
        assert time.monotonic() - start < 8


def test_the_end_of_a_run_waits_no_longer_than_it_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "CALL_S", 60)
    monkeypatch.setattr(runs, "DRAIN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with track.reopen(None, name="x") as run:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{address[1]}")
        run.tag({"a": "b"})  # refused at once
        listener = socket.create_server(address)  # and now it never answers
        start = time.monotonic()
    listener.close()
    assert time.monotonic() - start < 8
    assert "the last 2 writes to run" in caplog.text


def test_a_pause_that_the_server_asks_for_is_not_slept_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.send_header("Retry-After", "60")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{busy.server_port}")
        track.client()
        start = time.monotonic()
        with pytest.raises(TrackingError, match="no answer"), track.reopen("0" * 32, name="x"):
            pass
        busy.shutdown()
    assert time.monotonic() - start < 10


def test_what_is_written_while_the_server_is_away_is_sent_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(runs, "PAUSE_S", 0.0)
    client = track.client()
    log_batch, away = client.log_batch, True

    def sometimes(*args: object, **kwargs: object) -> None:
        if away and kwargs.get("metrics"):
            raise MlflowException("API request failed: connection refused")
        log_batch(*args, **kwargs)

    with caplog.at_level(logging.INFO), track.start("x", params={}, tags={}, datasets={}) as run:
        monkeypatch.setattr(client, "log_batch", sometimes)
        run.log({"loss": 3.0}, 1)
        run.log({"loss": 2.0}, 2)
        assert steps(run.id, "loss") == []
        away = False
        run.log({"loss": 1.0}, 3)
        assert steps(run.id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
        away = True
        run.log({"loss": 0.5}, 4)
        away = False
    assert steps(run.id, "loss")[-1] == (4, 0.5)
    assert client.get_run(run.id).info.status == "FINISHED"
    assert caplog.text.count("going on, and sending it later") == 2
    assert caplog.text.count("is back: everything is sent") == 2


def test_what_could_not_be_sent_is_said_and_harms_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(runs, "DRAIN_S", 0.0)

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("API request failed: connection refused")

    with track.start("x", params={}, tags={}, datasets={}) as run, monkeypatch.context() as patch:
        patch.setattr(track.client(), "log_batch", refuse)
        run.log({"loss": 3.0}, 1)
        run.close(patience_s=0)
    assert "the last 1 writes to run" in caplog.text


def test_a_metric_that_mlflow_refuses_is_an_error() -> None:
    with track.start("x", params={}, tags={}, datasets={}) as run:
        with pytest.raises(TrackingError, match=r"refused: .*recall@5"):
            run.log({"recall@5": 1.0}, 1)
        run.log({"recall_at_5": 1.0}, 1)
    assert steps(run.id, "recall_at_5") == [(1, 1.0)]


def test_other_ranks_do_nothing(monkeypatch: pytest.MonkeyPatch, pairs: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    track.connect()
    with track.start("x", params={"a": 1}, tags={}, datasets={"pairs": pairs}) as run:
        run.log({"loss": 1.0}, 1)
        run.log_artifacts(pairs)
        run.tag({"a": "b"})
    with track.reopen("0" * 32, name="x") as run:
        run.log({"loss": 1.0}, 1)
    assert run.id == track.NO_RUN
    assert track.champion_history("clipflow", "loss") is None


def test_no_champion() -> None:
    assert track.champion_history("nobody", "loss") is None
    track.client().create_registered_model("nobody")
    assert track.champion_history("nobody", "loss") is None


def test_a_registered_version_is_found_by_its_tags_with_its_present_aliases() -> None:
    client = track.client()
    assert track.registered("m", {"a": "1"}) is None
    client.create_registered_model("m")
    for number in "12":
        client.create_model_version("m", source="/m", tags={"a": number, "b": "x"})
    assert track.registered("m", {"a": "3", "b": "x"}) is None
    version = track.registered("m", {"a": "2", "b": "x"})
    assert str(version.version) == "2"
    assert track.aliases(version) == []
    for alias, number in {"champion": "1", "z": "2", "challenger": "2"}.items():
        client.set_registered_model_alias("m", alias, number)
    assert track.aliases(version) == ["challenger", "z"]


def git(*args: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(["git", *identity, *args], check=True, capture_output=True)


def test_lineage(pairs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert track.lineage({"pairs": pairs}) == {
        "git_sha": "unknown",
        "image_digest": "none",
        "kfp_run_id": "none",
        "pairs_digest": manifest.digest(pairs),
    }
    git("init")
    git("add", ".")
    git("commit", "-m", "m")
    clean = track.lineage({})["git_sha"]
    assert len(clean) == 40
    Path("dvc.lock").write_text("written by each `dvc repro`")
    assert track.lineage({})["git_sha"] == clean
    Path("new.py").write_text("")
    assert track.lineage({})["git_sha"] == f"{clean}-dirty"
    monkeypatch.setenv("GIT_SHA", "from-the-image")
    assert track.lineage({})["git_sha"] == "from-the-image"


def test_a_data_set_that_others_name_at_the_same_moment_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "manifest.json").write_text("{}")
    real, refused = track.client().log_inputs, []

    def log_inputs(run_id: str, inputs: list[object]) -> None:
        if not refused:
            refused.append(run_id)
            raise MlflowException(
                "BAD_REQUEST: (sqlite3.IntegrityError) UNIQUE constraint failed: datasets.digest"
            )
        real(run_id, inputs)

    monkeypatch.setattr(track.client(), "log_inputs", log_inputs)
    with track.start("laclip", params={}, tags={}, datasets={"pairs": pairs}) as run:
        pass
    assert refused
    named = track.client().get_run(run.id).inputs.dataset_inputs
    assert [each.dataset.name for each in named] == ["pairs"]


def test_a_password_in_the_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@mlflow.example.org:5000/a@b")
    assert track.place() == "http://mlflow.example.org:5000/a@b"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////data/a@b/mlflow.db")
    assert track.place() == track.uri()


@contextmanager
def answering(status: int, body: str, *, deaf_to: str = " ") -> Iterator[tuple[str, list[str]]]:
    """A server that answers so, or hangs up on a path that ends in `deaf_to`; and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            if not self.path.endswith(deaf_to):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}", asked
        listener.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (401, "You are not authenticated.", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PAS"),
        (403, "Invalid Host header - possible DNS rebinding", "add host and port to the server's"),
        (403, "Permission denied", "ask an administrator"),
        (400, "something else", "something else"),
    ],
)
def test_a_refusal_says_what_to_do(
    status: int, body: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, body) as (url, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("//", "//ann:secret@"))
        with pytest.raises(TrackingError) as refused:
            track.connect()
    line = str(refused.value)
    assert line.startswith(f"MLflow at {url}: refused: ")
    assert advice in line
    assert "\n" not in line
    assert "secret" not in line


def test_a_run_is_not_made_twice_because_an_answer_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = '{"experiment": {"experiment_id": "1", "name": "clipflow"}}'
    with answering(200, experiment, deaf_to="runs/create") as (url, asked):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(TrackingError, match="no answer"), track.reopen(None, name="x"):
            pass
    assert [path.rpartition("/api/")[2] for path in asked].count("2.0/mlflow/runs/create") == 1


def test_a_queued_experiment_logs_to_the_checkout_that_it_was_queued_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "a"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # as DVC does
    monkeypatch.setenv("DVC_EXP_NAME", "fusty-seed")
    with track.start("r", params={}, tags=track.lineage({}), datasets={}) as run:
        run.log_artifacts(Path(__file__), "files")
    assert track.uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = track.client().get_run(run.id)
    assert found.data.tags["dvc_exp"] == "fusty-seed"
    assert found.info.artifact_uri.startswith((tmp_path / "artifacts" / "mlflow").as_uri())
    assert not list(copy.iterdir())
