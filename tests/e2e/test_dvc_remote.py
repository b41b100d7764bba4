"""A data set version goes to an S3 remote and comes back elsewhere, with git and without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs
from fakes import s3
from fakes.artifacts import ROOT

BUCKET = "team"


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Store]:
    with s3.serve() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def dvc(server: s3.Store) -> Any:
    """`dvc(folder, *args)`, as README has it."""

    def run(folder: Path, *args: str) -> str:
        env = {**os.environ, **server.environ,
               "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
               "PYTHONPATH": str(ROOT / "components")}  # fmt: skip
        for name in ("CLIPFLOW_SCRATCH", "MLFLOW_TRACKING_URI"):
            env.pop(name)
        command = [sys.executable, "-m", "dvc", *args]
        done = subprocess.run(
            command, cwd=folder, env=env, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


def write_project(folder: Path, values: dict[str, Any]) -> None:
    """What a data set version needs of a repository: dvc.yaml, params.yaml and DVC's own settings."""
    folder.mkdir()
    values["sources"]["scenes"] |= {"num_pairs": 25}
    values["ingest"] |= {"samples_per_shard": 10}
    with (folder / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "components").symlink_to(ROOT / "components")


def test_push_pull_and_what_more_data_costs(
    tmp_path: Path, values: dict[str, Any], server: s3.Store, dvc: Any
) -> None:
    first, pod = tmp_path / "first", tmp_path / "pod"
    write_project(first, values)
    dvc(first, "init", "--no-scm")
    dvc(first, "remote", "add", "--default", "team", f"s3://{BUCKET}/dvc")
    dvc(first, "remote", "modify", "team", "endpointurl", server.endpoint)
    dvc(first, "repro", "ingest")
    dvc(first, "push", "ingest")
    pushed = server.objects(BUCKET)
    made = Pairs(first / "artifacts/pairs")

    # A pod has neither git nor the data: four files say which version it is and where.
    (pod / ".dvc").mkdir(parents=True)
    for name in ("dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config"):
        shutil.copy(first / name, pod / name)
    (pod / "components").symlink_to(ROOT / "components")
    dvc(pod, "pull", "ingest")
    pulled = Pairs(pod / "artifacts/pairs")
    assert manifest.digest(pulled.folder) == manifest.digest(made.folder)
    assert pulled.captions == made.captions
    assert "up to date" in dvc(pod, "status", "ingest")

    # More pairs: the shards that are whole already are not sent again.
    values["sources"]["scenes"]["num_pairs"] = 45
    with (first / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    dvc(first, "repro", "ingest")
    dvc(first, "push", "ingest")
    new = {name: size for name, size in server.objects(BUCKET).items() if name not in pushed}
    shards = {s["sha256"] for s in Pairs(first / "artifacts/pairs").manifest["shards"]}
    old = {s["sha256"] for s in pulled.manifest["shards"]}
    assert len(shards & old) == 2
    sizes = sorted(f.stat().st_size for f in (first / "artifacts/pairs").glob("*.tar"))
    assert sum(new.values()) < sum(sizes[-3:]) + sum(
        f.stat().st_size for f in (first / "artifacts").rglob("*") if f.suffix != ".tar"
    )
