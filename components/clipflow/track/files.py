"""Files that runs and models keep in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from clipflow.artifacts import manifest
from clipflow.track.server import client, look_up, refusals, uploading, uri

REPORT = "report"
"""Where a run keeps the report on what it trained."""


def model_id(version: Any) -> str:
    """The id of the MLflow model behind a registered version."""
    return str(version.source.removeprefix("models:/"))  # its `model_id` is not stored everywhere


def model_file(version: Any, path: str, folder: Path) -> Path | None:
    """A file or folder of the model behind a version, fetched into `folder`; None if it isn't there."""
    model = look_up(client().get_logged_model, model_id(version))
    if model is None:
        return None
    with refusals(), uploading():
        beside = client().list_logged_model_artifacts(model_id(version), _parent(path))
        if not _is_among(path, beside):
            return None
        from mlflow.artifacts import download_artifacts

        place = f"{model.artifact_location}/{path}"  # `models:/ID/...` would name a version
        return Path(download_artifacts(place, dst_path=str(folder), tracking_uri=uri()))


def report(run_id: str, names: Sequence[str], folder: Path) -> Path | None:
    """The report that a run keeps, fetched into `folder`: its manifest, and of `names` those that it has.

    None if there is no report. A run measured anew has another one: the manifest tells.
    """
    found = folder / REPORT
    for name in (manifest.MANIFEST, *names):
        if not (found / name).exists():
            _fetch(run_id, f"{REPORT}/{name}", found / name)
    return found if (found / manifest.MANIFEST).is_file() else None


def _fetch(run_id: str, path: str, target: Path) -> None:
    """A file or folder of a run, if it is there."""
    with refusals(), uploading():
        if not _is_among(path, client().list_artifacts(run_id, _parent(path))):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        found = Path(client().download_artifacts(run_id, path, str(target.parent)))
    if found != target:  # some stores make the parents again
        found.replace(target)


def add_model_file(version: Any, file: Path) -> None:
    """Put a file beside the others of the model behind a version, in place of one of its name."""
    with uploading():
        client().log_model_artifact(model_id(version), str(file))


def _parent(path: str) -> str | None:
    parent = str(PurePosixPath(path).parent)
    return None if parent == "." else parent


def _is_among(path: str, listed: list[Any]) -> bool:
    return any(PurePosixPath(file.path) == PurePosixPath(path) for file in listed)
