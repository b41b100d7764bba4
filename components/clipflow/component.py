"""What the shells around stages share inside a pod: folders for artifacts, and what the UI is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from clipflow import log, store
from clipflow.artifacts import manifest


def folders(
    stage: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    made_with: str,
    wanted: Callable[[str], bool] = store.everything,
) -> AbstractContextManager[dict[str, Path]]:
    """Local folders for the artifacts of a component, by name: see `store.folders`.

    What is made is published below CLIPFLOW_STORE and only a reference handed on; without it, whole.
    """
    log.setup(stage)
    return store.folders(
        {name: Path(artifact.path) for name, artifact in inputs.items()},
        {name: Path(artifact.path) for name, artifact in outputs.items()},
        publish_to=os.environ.get("CLIPFLOW_STORE"),
        made_with=f"{stage} {made_with}",
        wanted=wanted,
    )


def tell(artifact: Any, digest: str | None = None) -> None:
    """Show an output's digest and place in the UI, and write the digest to the output parameter.

    Kubeflow's cache keys hold parameters but not what artifacts contain: passed on as a parameter, the
    digest makes a changed input a changed key.
    """
    folder = Path(artifact.path)
    found = manifest.digest(folder)
    artifact.metadata["digest"] = found
    if url := store.reference(folder):
        artifact.metadata["url"] = url
    if digest:
        Path(digest).parent.mkdir(parents=True, exist_ok=True)
        Path(digest).write_text(found, encoding="utf-8")


def own_cache(part: str) -> None:
    """Let this part remember answers in a file of its own: a shared volume's locks can't be relied on."""
    folder = store.scratch() / "cache" / part.replace("/", "-of-")
    os.environ.setdefault("CLIPFLOW_CACHE", str(folder))
