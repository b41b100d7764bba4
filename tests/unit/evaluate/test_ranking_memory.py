"""Ranking holds blocks of similarities, never all of them."""

import subprocess
import sys

PROGRAM = """
import re
from pathlib import Path
import numpy as np
from clipflow.evaluate import ranking

def resident(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

candidates = np.random.default_rng(0).standard_normal((200_000, 8), np.float32)
right = np.arange(2_000)
ranking.ranks(candidates[:8], candidates[:64], right[:8], right[:8] + 1)
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
before = resident("VmHWM")
ranking.ranks(candidates[right], candidates, right, right + 1)
print(resident("VmHWM") - before)
"""


def test_memory_is_that_of_blocks() -> None:
    """All similarities of these queries would take 1.5 GiB."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=200
    )
    assert float(ran.stdout) < 800, "MiB"
