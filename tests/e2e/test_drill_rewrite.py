"""The drill of killing rewriting, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fakes.artifacts import ROOT

NUM_KILLS = 20


def test_nothing_is_lost_and_nothing_paid_for_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drills.rewrite", f"--kills={NUM_KILLS}", "--times=1",
         f"--out={tmp_path / 'out.json'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    (result,) = json.loads((tmp_path / "out.json").read_text())["times"]
    assert (result["faults"], result["lost"]) == (NUM_KILLS, 0)
    assert result["answers"] <= result["answers_paid_for"] < result["requests"]
