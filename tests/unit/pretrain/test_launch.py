"""pretrain launched in the task's own pod: signals, status and what is left to the next try."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clipflow.artifacts import checkpoint
from clipflow.errors import ClipflowError
from clipflow.pretrain import launch
from fakes.launch import make_inputs
from fakes.launcher import PLACEMENT

ALONE = """
import sys
from pathlib import Path
from clipflow import log
from clipflow.pretrain import launch
from clipflow.pretrain.placement import Placement
log.setup("pretrain")
params, placement, *paths = sys.argv[1:]
names = "pairs", "rewrites", "checkpoint"
launch.alone(params, Placement.model_validate_json(placement), dict(zip(names, map(Path, paths))))
"""
ON_CPU = PLACEMENT.model_copy(update={"num_nodes": 1, "accelerators_per_node": 0})


def test_sigterm_reaches_training_which_saves_and_goes_on(
    tmp_path: Path, stage_params: Any
) -> None:
    params = stage_params("pretrain", steps=60, checkpoint_every=10).model_dump_json()
    paths = [*make_inputs(tmp_path).values(), tmp_path / "checkpoint"]
    command = [sys.executable, "-c", ALONE, params, ON_CPU.model_dump_json(), *map(str, paths)]
    task = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not [f for f in tmp_path.glob("scratch/*/step-*.pt") if "step-00000000" not in f.name]:
        assert task.poll() is None, task.stderr and task.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    task.send_signal(signal.SIGTERM)
    _, errors = task.communicate(timeout=300)
    assert task.returncode == 128 + signal.SIGTERM, errors
    assert "stopped by signal 15: the next try goes on from the saved state" in errors
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stderr
    assert checkpoint.read(tmp_path / "checkpoint")["recipe"] == "laclip"


def test_what_ends_training_is_one_line(tmp_path: Path, stage_params: Any) -> None:
    nowhere = {name: tmp_path / name for name in ("pairs", "rewrites", "checkpoint")}
    params = stage_params("pretrain").model_dump_json()
    with pytest.raises(ClipflowError, match="pretrain: training ended with status 2; the lines"):
        launch.alone(params, ON_CPU, nowhere)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_several_nodes_need_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPFLOW_STORE", raising=False)
    with pytest.raises(ClipflowError, match="CLIPFLOW_STORE is not set; set it in the ConfigMap"):
        launch.launch("{}", PLACEMENT, {}, None)
