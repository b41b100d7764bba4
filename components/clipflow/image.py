"""The container images in which components run, as they are known when a pipeline is compiled.

Each is CLIPFLOW_CPU_IMAGE or CLIPFLOW_GPU_IMAGE if that is set, else what `make push` wrote to images.json,
else the name under which `make images` builds it. A run's `cpu_image` and `gpu_image` replace them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

DIGESTS = Path("images.json")
"""`{"cpu": "registry/clipflow-cpu@sha256:...", "gpu": ...}` in the working directory."""


def image(target: str) -> str:
    """The image of a target of the Dockerfile, `cpu` or `gpu`."""
    pushed = json.loads(DIGESTS.read_text(encoding="utf-8")) if DIGESTS.is_file() else {}
    name = os.environ.get(f"CLIPFLOW_{target.upper()}_IMAGE") or pushed.get(target)
    return name or f"clipflow-{target}:dev"


def pinned(name: str) -> bool:
    """Whether an image is named by its digest, so that the name can't come to mean another."""
    return "@sha256:" in name


CPU_IMAGE = image("cpu")
GPU_IMAGE = image("gpu")
