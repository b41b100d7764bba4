"""Files that runs and models keep in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from clipflow.track.server import client, look_up, refusals, uploading, uri


def model_file(source: str, path: str, folder: Path) -> Path | None:
    """A file or folder of the MLflow model `models:/ID`, fetched into `folder`; None if it isn't there."""
    model_id = source.removeprefix("models:/")
    model = look_up(client().get_logged_model, model_id)
    if model is None:
        return None
    with refusals(), uploading():
        beside = client().list_logged_model_artifacts(model_id, _parent(path))
        if not _is_among(path, beside):
            return None
        from mlflow.artifacts import download_artifacts

        place = f"{model.artifact_location}/{path}"  # `models:/ID/...` would name a version
        return Path(download_artifacts(place, dst_path=str(folder), tracking_uri=uri()))


def run_file(run_id: str, path: str, folder: Path) -> Path | None:
    """A file or folder of an MLflow run, fetched into `folder`; None if it isn't there."""
    with refusals(), uploading():
        if not _is_among(path, client().list_artifacts(run_id, _parent(path))):
            return None
        return Path(client().download_artifacts(run_id, path, str(folder)))


def run_files(run_id: str, paths: Sequence[str], folder: Path) -> Path:
    """Bring those of a run's files and folders that there are into `folder`, by the same paths."""
    for path in (one for one in paths if not (folder / one).exists()):
        parent = folder / (_parent(path) or ".")
        parent.mkdir(parents=True, exist_ok=True)
        found = run_file(run_id, path, parent)
        if (
            found and found != folder / path
        ):  # some stores leave the parents out, others make them again
            found.replace(folder / path)
    return folder


def add_model_file(source: str, file: Path) -> None:
    """Put a file beside the others of the MLflow model `models:/ID`, in place of one of its name."""
    with uploading():
        client().log_model_artifact(source.removeprefix("models:/"), str(file))


def _parent(path: str) -> str | None:
    parent = str(PurePosixPath(path).parent)
    return None if parent == "." else parent


def _is_among(path: str, listed: list[Any]) -> bool:
    return any(PurePosixPath(file.path) == PurePosixPath(path) for file in listed)
