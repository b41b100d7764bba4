"""The drills of a failing object store and of killed pods, as short as they can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fakes.artifacts import ROOT


def drill(name: str, out: Path, *flags: str) -> dict[str, Any]:
    """In a process of its own: it forks, which doesn't go with the threads that other tests leave."""
    done = subprocess.run(
        [sys.executable, "-m", f"drills.{name}", f"--out={out}", *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["lost"] == 0
    return result


def test_a_failing_store_changes_nothing(tmp_path: Path) -> None:
    result = drill("store", tmp_path / "out.json", "--away-s=3")
    assert result["by_kind"]["error"] > 5
    assert result["by_kind"]["away"] > 0
    assert result["faults"] == sum(result["by_kind"].values())


def test_killed_pods_change_nothing(tmp_path: Path) -> None:
    result = drill("pods", tmp_path / "out.json", "--times=0")
    tasks = {place.split(":")[0] for place in result["by_place"]}
    assert tasks >= {"rewrite-0", "merge-rewrites", "pretrain", "register"}
    assert result["faults"] == sum(result["by_place"].values())
