"""Two processes measure what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors.torch import save_file

from clipflow.artifacts import benchmarks, checkpoint, manifest, report
from clipflow.model.towers import Towers
from fakes.artifacts import ROOT, jpeg


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A random checkpoint of ours, and a task of 23 images."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    towers = Towers("clipflow-tiny", 0.07)
    save_file(towers.clip.state_dict(), folder / checkpoint.WEIGHTS)
    manifest.write_json(folder / checkpoint.CONFIG, towers.config)
    (folder / checkpoint.PROVENANCE).write_text(json.dumps({"mlflow_run_id": "none"}))
    facts = {"recipe": "clip", "architecture": "clipflow-tiny"}
    manifest.write(folder, checkpoint.SCHEMA, **facts, params={"steps": 1, "batch_size": 2})
    measured = tmp_path / "benchmarks"
    measured.mkdir()
    writer = benchmarks.Writer(measured)
    rows = [(jpeg((10 * n, 255 - 10 * n, 90)), n % 3) for n in range(23)]
    names = ["red", "green", "blue"]
    writer.add_classification("task", names, ["a {c}"], {"train": rows[:9], "test": rows})
    writer.close()
    return {"checkpoint": folder, "benchmarks": measured}


def test_two_processes_write_the_report_of_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["evaluate"] |= {"batch_size": 4, "gallery_size": 2}
    values["evaluate"]["robustness"] = {"corruptions": ["contrast"], "severities": [3]}
    YAML(typ="safe").dump(values, tmp_path / "params.yaml")
    found = []
    for num in (1, 2):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}",
            "-m", "clipflow", "evaluate", "--params", str(tmp_path / "params.yaml"),
            *(part for name, path in inputs.items() for part in (f"--{name}", str(path))),
            "--report", str(tmp_path / f"report{num}"),
        ]  # fmt: skip
        env = os.environ | {"CLIPFLOW_SCRATCH": str(tmp_path / f"scratch{num}")}
        ran = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=240
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        files = list((tmp_path / f"scratch{num}").rglob(f"task-test-*-of-{num}.arrow"))
        assert len(files) == num, "each process embedded its share"
        found.append(report.metrics(tmp_path / f"report{num}"))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
