"""The pipeline that Kubernetes runs also runs here: the same components, each in a process."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from kfp import local
from ruamel.yaml import YAML

from clipflow import params
from clipflow.artifacts import registration, report
from clipflow.submit import load, stage_params

ROOT = Path(__file__).parents[2]
TINY = {
    ("sources", "scenes"): {"num_pairs": 64, "num_train": 64, "num_test": 64, "size_px": 32},
    ("rewrite",): {"num_rewrites": 1},
    ("pretrain",): {"batch_size": 16, "steps": 2, "warmup_steps": 1, "checkpoint_every": 2},
}
"""What makes the run short. Every other value, and every key, is the real params.yaml's."""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The real params file with less of everything."""
    values = params.read(ROOT / "params.yaml")
    for path, smaller in TINY.items():
        section = values
        for key in path:
            section = section[key]
        assert smaller.keys() <= section.keys()
        section.update(smaller)
    file = tmp_path / "params.yaml"
    YAML(typ="safe").dump(values, file)
    return file


def test_pipeline_runs_in_processes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    root = tmp_path / "outputs"
    laclip = load(ROOT / "pipelines" / "laclip.py")

    with warnings.catch_warnings():
        # kfp warns that the image's name has no "python" in it, and of its own loose ends.
        warnings.simplefilter("ignore")
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        laclip(**stage_params(tiny))

    (outputs,) = root.glob("*/evaluate/executor_output.json")
    artifacts = json.loads(outputs.read_text())["artifacts"]
    shown = metadata(artifacts, "metrics")
    made = Path(artifacts["report"]["artifacts"][0]["uri"])
    assert shown == pytest.approx(report.metrics(made))
    assert 0 <= shown[params.load(tiny, "register").primary] <= 1
    page = Path(artifacts["page"]["artifacts"][0]["uri"])
    assert page.read_bytes() == (made / report.PAGE).read_bytes()

    (folder,) = root.glob("*/register/registration")
    assert registration.read(folder)["model"] == params.load(tiny, "register").model


def metadata(artifacts: dict[str, Any], name: str) -> dict[str, Any]:
    """The metadata of one output artifact; for Metrics these are the logged scalars."""
    return dict(artifacts[name]["artifacts"][0]["metadata"])
