"""The lineage key, which joins Git, DVC, KFP and MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from clipflow.artifacts import manifest
from clipflow.track.git import git


def lineage(inputs: dict[str, Path]) -> dict[str, str]:
    """The key: commit, image, pipeline run, DVC experiment if it is one, input digests."""
    return {
        "git_sha": os.environ.get("GIT_SHA") or _git_sha(),
        "image_digest": os.environ.get("CLIPFLOW_IMAGE") or "none",
        "kfp_run_id": os.environ.get("KFP_RUN_ID") or "none",
        **({"dvc_exp": os.environ["DVC_EXP_NAME"]} if os.environ.get("DVC_EXP_NAME") else {}),
        **{f"{name}_digest": manifest.digest(folder) for name, folder in inputs.items()},
    }


def _git_sha() -> str:
    """The commit of the working directory; `-dirty` if anything but DVC's own lock file differs."""
    head = git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}-dirty" if git("status", "--porcelain", "--", ":(exclude)dvc.lock") else head
