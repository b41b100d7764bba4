"""`dvc repro` and `dvc exp run` for real, in a copy of this repository with tiny parameters."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import open_clip
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from clipflow.artifacts import benchmarks, registration
from fakes.artifacts import ROOT

STAGES = ("ingest", "rewrite", "pretrain", "evaluate", "register")


@pytest.fixture
def repository(tmp_path: Path, values: dict[str, Any]) -> Path:
    """What git tracks here, or would, committed in a repository of its own."""
    copy = tmp_path / "repository"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    with (copy / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "-q"], cwd=copy, check=True)
    subprocess.run([*git, "add", "-A"], cwd=copy, check=True)
    subprocess.run([*git, "commit", "-qm", "copy"], cwd=copy, check=True)
    return copy


def dvc(repository: Path, *args: str) -> str:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(repository / "components"),
    }
    env.pop("CLIPFLOW_SCRATCH")
    env.pop("MLFLOW_TRACKING_URI")
    done = subprocess.run([sys.executable, "-m", "dvc", *args], cwd=repository, env=env, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def open_clip_top1(checkpoint: Path, task: benchmarks.Task) -> float:
    """Zero-shot accuracy by open_clip's own API, one image at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{checkpoint}")
    classifier = open_clip.build_zero_shot_classifier(
        model.eval(),
        open_clip.get_tokenizer(f"local-dir:{checkpoint}"),
        task.classnames,
        [lambda name, t=template: t.replace("{c}", name) for template in task.templates],
    )
    right = []
    for jpeg, label in task.samples("test"):
        image = preprocess(Image.open(io.BytesIO(jpeg))).unsqueeze(0)
        with torch.no_grad():
            scores = model.encode_image(image, normalize=True) @ classifier
        right.append(scores.argmax().item() == int(label))
    return sum(right) / len(right)


def test_repro_then_cached_then_the_baseline_beside_it(repository: Path) -> None:
    first = dvc(repository, "repro")
    for stage in STAGES:
        assert f"Running stage '{stage}'" in first
    artifacts = repository / "artifacts"
    assert registration.read(artifacts / "registration")["aliases"] == ["challenger", "champion"]

    # another program reproduces our number from our checkpoint
    metrics = json.loads((artifacts / "report" / "metrics.json").read_text())
    for task in benchmarks.read(artifacts / "benchmarks"):
        if task.kind == "classification":
            ours = metrics[f"zero_shot/{task.name}/top1"]
            assert open_clip_top1(artifacts / "checkpoint", task) == pytest.approx(ours)

    again = dvc(repository, "repro")
    assert "Running stage" not in again

    # editing a recipe invalidates no other
    file = repository / "params.yaml"
    as_run = file.read_text()
    values = YAML(typ="safe").load(as_run)
    for recipe, stale in (("laclip_mt", False), ("laclip", True)):
        values["recipes"][recipe]["temperature_init"] = 0.09
        with file.open("w") as stream:
            YAML(typ="safe").dump(values, stream)
        status = json.loads(dvc(repository, "status", "--json", "ingest", "rewrite", "pretrain"))
        assert ("pretrain" in status) is stale
    file.write_text(as_run)

    second = dvc(repository, "exp", "run", "-S", "pretrain.recipe=clip")
    for stage in ("pretrain", "evaluate", "register"):
        assert f"Running stage '{stage}'" in second
    for stage in ("ingest", "rewrite"):
        assert f"Running stage '{stage}'" not in second

    # a queued experiment runs in a copy that is deleted, and logs to the same place
    dvc(repository, "exp", "run", "--queue", "-S", "pretrain.recipe=clip", "-S", "pretrain.seed=1")
    dvc(repository, "exp", "run", "--run-all")

    client = mlflow.MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("clipflow")
    every = client.search_runs([experiment.experiment_id])
    (rewriting,) = (run for run in every if run.info.run_name == "rewrite-grammar")
    assert rewriting.data.metrics["rewrite/acceptance"] > 0.9
    runs = {run.info.run_name: run for run in every if run is not rewriting}
    names = ("laclip-clipflow-tiny-seed0", "clip-clipflow-tiny-seed0", "clip-clipflow-tiny-seed1")
    assert set(runs) == set(names)
    assert ["dvc_exp" in runs[name].data.tags for name in names] == [False, True, True]
    for run in runs.values():
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 3
        assert {"train/loss", "zero_shot/mean/top1", "retrieval/mean/recall_at_1"} <= set(
            run.data.metrics
        )
        assert {"git_sha", "pairs_digest", "rewrites_digest"} <= set(run.data.tags)
        assert {i.dataset.name for i in run.inputs.dataset_inputs} == {"pairs", "rewrites"}
        assert "report/report.html" in {
            f.path for f in client.list_artifacts(run.info.run_id, "report")
        }
    assert not (repository / "mlruns").exists()
