"""Following a version back, in a real Git repository with DVC and a real registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipflow import findings, track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.cli import app
from clipflow.errors import TrackingError
from clipflow.registry import lineage
from fakes.artifacts import make_pairs, make_rewrites

STAGES = """
stages:
  ingest:
    cmd: cp -r made/. artifacts
    deps: [made]
    outs: [artifacts/pairs, artifacts/rewrites]
"""


def git(*args: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    done = subprocess.run(["git", *identity, *args], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_data(caption: str) -> None:
    """What `dvc repro` takes to be the output of ingest and rewrite, and a commit of its lock file."""
    shutil.rmtree("made", ignore_errors=True)
    pairs = make_pairs(Path("made/pairs"), {"a": caption})
    make_rewrites(Path("made/rewrites"), pairs, {"a": ["another"]})
    Path("artifacts").mkdir(exist_ok=True)
    subprocess.run(["dvc", "repro", "--quiet"], check=True, capture_output=True)
    git("add", "dvc.lock", "dvc.yaml", ".gitignore", ".dvc/config")
    git("commit", "-m", caption)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KFP_ENDPOINT", "CLIPFLOW_STORE", "CLIPFLOW_IMAGE", "KFP_RUN_ID", "GIT_SHA"):
        monkeypatch.delenv(name, raising=False)
    git("init")
    subprocess.run(["dvc", "init", "--quiet"], check=True)
    Path("dvc.yaml").write_text(STAGES)
    Path(".gitignore").write_text("/*\n!/dvc.yaml\n!/dvc.lock\n!/.gitignore\n!/.dvc\n")
    make_data("first")
    return tmp_path


@pytest.fixture
def train(
    make_checkpoint: Callable[..., Path],
    make_report: Callable[..., Path],
    register: Callable[..., None],
) -> Callable[..., str]:
    """Register a checkpoint made of what is in artifacts/ now; the id of its run."""

    def train(seed: int = 0, **changes: str) -> str:
        inputs = {name: Path("artifacts") / name for name in ("pairs", "rewrites")}
        key = track.lineage(inputs) | changes
        with track.start("laclip", params={}, tags=key, datasets={}) as run:
            pass
        provenance = make_checkpoint(seed, run.id) / checkpoints.PROVENANCE
        provenance.write_text(json.dumps({**json.loads(provenance.read_text()), **key}))
        report = make_report(f"report{seed}", mean=0.5)
        with track.reopen(run.id, name="laclip") as run:
            run.log_artifacts(report, "report")
        register(seed)
        return run.id

    return train


def followed(name: str = "scenes@challenger") -> dict[str, Any]:
    return {finding.what: finding for finding in lineage.follow(name)}


def test_every_link_of_a_version(repository: Path, train: Callable[..., str]) -> None:
    run_id = train()
    found = followed()
    missing = {what for what, finding in found.items() if finding.mark != "ok"}
    assert missing == {"benchmarks"}  # those of the report are but a digest
    assert found["version"].said.startswith("scenes version 1 @challenger @champion, in MLflow")
    assert found["Git commit"].said == f"{git('rev-parse', 'HEAD')}, first"
    digest = manifest.digest(Path("artifacts/pairs"))
    assert found["pairs"].said == f"{digest}, in artifacts/pairs"
    assert (
        f"laclip, FINISHED, make ui, then http://127.0.0.1:5000/#/experiments/1/runs/{run_id}"
        == (found["MLflow run"].said)
    )
    assert found["report"].said.endswith(f"report/report.html of MLflow run {run_id}")
    assert found["image"].said == "none: trained outside a container"

    # The folder of the checkpoint leads to the same.
    assert followed("checkpoint0")["version"] == found["version"]
    assert followed("scenes/1")["pairs"] == found["pairs"]


def test_data_that_is_in_a_commit_and_not_here(repository: Path, train: Callable[..., str]) -> None:
    train()
    first = git("rev-parse", "HEAD")
    digest = manifest.digest(Path("artifacts/pairs"))
    make_data("second")
    assert manifest.digest(Path("artifacts/pairs")) != digest
    found = followed()["pairs"]
    assert found.mark == "ok"
    get = f"git checkout {first[:12]} -- dvc.lock && dvc checkout artifacts/pairs"
    assert found.said == f"{digest}, in dvc.lock of commit {first[:12]}: {get}"

    subprocess.run(get, shell=True, check=True, capture_output=True)
    assert manifest.digest(Path("artifacts/pairs")) == digest
    assert followed()["pairs"].said == f"{digest}, in artifacts/pairs"


def test_missing_links_say_how_to_mend_them(
    repository: Path, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train(git_sha="0" * 40, image_digest="clipflow-gpu:dev", kfp_run_id="r1")
    track.client().delete_run(run_id)
    shutil.rmtree("artifacts/rewrites")
    git("update-ref", "-d", "HEAD")  # as in a clone that lacks the commit
    git("reflog", "expire", "--expire=now", "--all")
    found = followed()
    assert found["Git commit"].mark == "problem"
    assert "git fetch" in found["Git commit"].fix
    assert found["image"].said == "clipflow-gpu:dev has no digest"
    assert found["MLflow run"].fix == f"mlflow runs restore --run-id {run_id}"
    assert found["Kubeflow run"].mark == "not checked"
    assert "no commit here has DVC's hash" in found["rewrites"].said
    assert "commit dvc.lock" in found["rewrites"].fix
    monkeypatch.setenv("KFP_ENDPOINT", "http://kfp/")
    assert followed()["Kubeflow run"].said == "http://kfp/#/runs/details/r1"


def test_a_dirty_tree_and_a_model_whose_files_are_gone(
    repository: Path, train: Callable[..., str]
) -> None:
    train(git_sha=git("rev-parse", "HEAD") + "-dirty")
    shutil.rmtree("artifacts/mlflow")
    found = followed()
    assert found["Git commit"].mark == "problem"
    assert "changes that were not committed" in found["Git commit"].said
    assert found["checkpoint"].said.endswith("its files are not in MLflow")


def test_the_command(repository: Path, train: Callable[..., str]) -> None:
    train()
    result = CliRunner().invoke(app, ["lineage", "scenes@champion"])
    assert result.exit_code == 1
    assert "ok           version: scenes version 1" in result.output
    assert "problem      benchmarks: " in result.output
    assert result.output.splitlines()[-1].endswith("1 problem, 0 not checked")
    listed = json.loads(CliRunner().invoke(app, ["lineage", "checkpoint0", "--json"]).output)
    assert [findings.Finding(**entry) for entry in listed] == list(lineage.follow("checkpoint0"))


def test_names_that_lead_nowhere(register: Callable[..., None]) -> None:
    register(0)
    for name, message in {
        "scenes": "expected MODEL@alias or MODEL/VERSION, got 'scenes'",
        "scenes@chamption": "did you mean 'champion'",
        "scenes/7": "no such version",
        "scene@champion": "did you mean 'scenes'",
    }.items():
        with pytest.raises(TrackingError, match=message):
            list(lineage.follow(name))
