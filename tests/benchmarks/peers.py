"""What only the other side of a benchmark needs, in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import harness

PACKAGES = ["webdataset==0.2.86", "braceexpand==0.1.7"]


def peers() -> Path:
    """The folder to put on Python's path; the packages are installed into it if they are not there."""
    folder = harness.OUT / "peers"
    if not (folder / "webdataset").exists():
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python",
             sys.executable, "--target", str(folder), *PACKAGES],
            check=True,
        )  # fmt: skip
    return folder
