"""The drill of a failing MLflow server, in short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fakes.artifacts import ROOT


def test_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    """In a process of its own: it forks, which doesn't go with the threads that other tests leave."""
    done = subprocess.run(
        [sys.executable, "-m", "drills.mlflow", "--down-s=2", "--outages", "middle", "end",
         "--kinds", "lose", f"--out={tmp_path / 'out.json'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["lost"] == 0
    assert result["by_kind"]["server killed"] == 2
    assert result["by_kind"]["lose: model-versions/create"] == 1
