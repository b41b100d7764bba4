"""The drill of killing training, with each place once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fakes.artifacts import ROOT

NUM_KILLS = 24


def test_nothing_is_lost(tmp_path: Path) -> None:
    """In a process of its own: it forks, which doesn't go with the threads that other tests leave."""
    done = subprocess.run(
        [sys.executable, "-m", "drills.resume", f"--kills={NUM_KILLS}", f"--out={tmp_path / 'out.json'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["lost"] == 0
    assert result["faults"] == sum(result["by_place"].values()) == NUM_KILLS
    phases = {place.split(":")[0] for place in result["by_place"]}
    assert phases >= {"data", "step", "state", "log", "any time"}
