"""Where a checkout keeps what outlives a run: MLflow's database and files, paid answers."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The working directory; in a queued experiment, which DVC runs in a copy, where it was queued.

    DVC names the checkout in `DVC_ROOT`, and deletes the copy with all that was not an output.
    """
    return Path(os.environ.get("DVC_ROOT") or ".").absolute()
