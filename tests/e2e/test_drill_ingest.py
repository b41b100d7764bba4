"""The drill of killing ingest, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fakes.artifacts import ROOT


def test_nothing_is_lost(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drills.ingest", "--kills=30", f"--out={tmp_path / 'out.json'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["faults"] >= 15
    assert result["lost"] == 0
