"""kill -9 and Ctrl-C in the middle of a stage leave nothing that the next run would trust."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clipflow.artifacts import manifest

INPUTS = {"ingest": (), "rewrite": ("pairs",)}
OUTPUTS = {"ingest": ("pairs", "benchmarks"), "rewrite": ("rewrites",)}


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a process, which succeeds."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture
def clipflow(tmp_path: Path, values: dict[str, Any]) -> Any:
    """`clipflow(stage)`: start a stage on artifacts in tmp_path."""
    values["sources"]["scenes"] |= {"num_pairs": 400}
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(values, stream)

    def start(
        stage: str, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> subprocess.Popen[str]:
        flags = [f"--{name}={tmp_path / name}" for name in (*inputs, *outputs)]
        command = [sys.executable, "-m", "clipflow", stage, *flags]
        return subprocess.Popen([*command, f"--params={tmp_path / 'params.yaml'}"], text=True,
                                stderr=subprocess.PIPE)  # fmt: skip

    return start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("stage", ["ingest", "rewrite"])
def test_interrupted_stage_can_be_run_again(
    tmp_path: Path, clipflow: Any, stage: str, number: signal.Signals
) -> None:
    if stage == "rewrite":
        finish(clipflow("ingest", (), OUTPUTS["ingest"]))
    process = clipflow(stage, INPUTS[stage], OUTPUTS[stage])
    partial = tmp_path / f"{OUTPUTS[stage][0]}.partial"
    while not partial.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), errors
    for name in OUTPUTS[stage]:
        assert not (tmp_path / name).exists()
    finish(clipflow(stage, INPUTS[stage], OUTPUTS[stage]))
    for name in OUTPUTS[stage]:
        assert (tmp_path / name / manifest.MANIFEST).exists()
    assert not list(tmp_path.glob("*.partial"))


def test_errors_are_one_line_and_exit_two(tmp_path: Path, clipflow: Any) -> None:
    process = clipflow("rewrite", ("pairs",), ("rewrites",))
    _, errors = process.communicate()
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert line.startswith("clipflow: ")
    assert "expected clipflow.pairs/1, no such folder; pass the output of 'clipflow ingest'" in line


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    """As where clipflow is installed without its extras."""
    script = (
        "import sys; sys.modules['faiss'] = None; from clipflow.cli import main;"
        "main(['search', '--images', '.'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "clipflow: this command needs 'faiss', which isn't installed; install clipflow with its extras:"
        " pip install 'clipflow[train,search]'"
    )
