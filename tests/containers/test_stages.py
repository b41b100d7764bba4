"""The five stages on tiny params, each in the image that the pipeline gives it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from clipflow.artifacts import checkpoint, registration
from containers import engine

FLAGS = {
    "ingest": ("--pairs", "pairs", "--benchmarks", "benchmarks"),
    "rewrite": ("--pairs", "pairs", "--rewrites", "rewrites"),
    "pretrain": ("--pairs", "pairs", "--rewrites", "rewrites", "--checkpoint", "checkpoint"),
    "evaluate": ("--checkpoint", "checkpoint", "--benchmarks", "benchmarks", "--report", "report"),
    "register": (
        "--checkpoint", "checkpoint", "--report", "report", "--registration", "registration",
    ),
}  # fmt: skip
IMAGES = {
    "ingest": "cpu",
    "rewrite": "cpu",
    "pretrain": "gpu",
    "evaluate": "gpu",
    "register": "cpu",
}


def test_from_nothing_to_a_champion(folder: Path, params_file: Path, mlflow_server: str) -> None:
    shutil.copy(params_file, folder / "params.yaml")
    environment = {
        "MLFLOW_TRACKING_URI": mlflow_server,
        "ACCELERATE_USE_CPU": "1",
        "CLIPFLOW_WORKERS": "0",
        "OMP_NUM_THREADS": "1",
    }
    for stage, target in IMAGES.items():
        words = ("clipflow", stage, "--params", "params.yaml", *FLAGS[stage])
        engine.run(target, *words, folder=folder, environment=environment)

    decided = registration.read(folder / "registration")
    assert (decided["version"], decided["accepted"]) == ("1", True)
    trained = checkpoint.provenance(folder / "checkpoint")
    label = engine.inspect("gpu")["Config"]["Labels"]["org.opencontainers.image.revision"]
    assert trained["git_sha"] == label
    assert trained["packages"]["torch"].partition("+")[0] in engine.lock()["torch"]
    owners = {path.stat().st_uid for path in folder.rglob("*")} - {0}
    assert owners == {engine.USER}
    assert json.loads((folder / "report" / "metrics.json").read_text())
