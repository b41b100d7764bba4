"""The pipeline that Kubernetes runs also runs here: the same components, each in a process."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from kfp import local

from clipflow import params
from clipflow.artifacts import registration, report
from clipflow.submit import load, stage_params
from fakes.artifacts import ROOT


def test_pipeline_runs_in_processes(
    params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    root = tmp_path / "outputs"
    laclip = load(ROOT / "pipelines" / "laclip.py")

    with warnings.catch_warnings():
        # kfp warns that the image's name has no "python" in it, and of its own loose ends.
        warnings.simplefilter("ignore")
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        laclip(**stage_params(params_file), accelerators_per_node=0, rewrite_parts=2)

    (outputs,) = root.glob("*/merge-reports/executor_output.json")
    artifacts = json.loads(outputs.read_text())["artifacts"]
    shown = metadata(artifacts, "metrics")
    made = Path(artifacts["report"]["artifacts"][0]["uri"])
    assert shown == pytest.approx(report.metrics(made))
    assert 0 <= shown[params.load(params_file, "register").primary] <= 1
    page = Path(artifacts["page"]["artifacts"][0]["uri"])
    assert page.read_bytes() == (made / report.PAGE).read_bytes()

    (folder,) = root.glob("*/register/registration")
    assert registration.read(folder)["model"] == params.load(params_file, "register").model


def metadata(artifacts: dict[str, Any], name: str) -> dict[str, Any]:
    """The metadata of one output artifact; for Metrics these are the logged scalars."""
    return dict(artifacts[name]["artifacts"][0]["metadata"])
