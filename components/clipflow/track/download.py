"""Registered models, brought onto this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clipflow.errors import TrackingError, did_you_mean
from clipflow.track.queries import aliased
from clipflow.track.server import client, look_up, place, refusals, uploading

NAMED = re.compile(r"(?P<model>[^/@:]+)(@(?P<alias>[^/@:]+)|/(?P<number>\d+))")


def is_version(name: str) -> bool:
    """Whether a name is that of a registered version: MODEL@ALIAS or MODEL/VERSION."""
    return bool(NAMED.fullmatch(name))


def version(name: str) -> Any:
    """The MLflow model version MODEL@ALIAS or MODEL/VERSION. Raises TrackingError saying what there is."""
    found = NAMED.fullmatch(name)
    assert found, name
    model, alias, number = found["model"], found["alias"], found["number"]
    known = aliased(model, alias) if alias else look_up(client().get_model_version, model, number)
    if known is not None:
        return known
    registered = look_up(client().get_registered_model, model)
    if registered is None:
        with refusals():
            names = [each.name for each in client().search_registered_models()]
        hint = did_you_mean(model, names) if names else "none is registered there"
        raise TrackingError(f"{name}: MLflow at {place()} has no model '{model}'; {hint}")
    aliases = ", ".join(f"@{each}" for each in sorted(registered.aliases)) or "none"
    raise TrackingError(
        f"{name}: MLflow at {place()} has no such version of '{model}'; its aliases: {aliases}"
    )


def model_id(version: Any) -> str:
    """The id of the MLflow model behind a registered version."""
    return str(version.source.removeprefix("models:/"))  # its `model_id` is not stored everywhere


def download(version: Any, folder: Path) -> None:
    """Download the model behind a registered version into an empty folder.

    Raises TrackingError if the server is away, or doesn't have the model's files any more.
    """
    from mlflow.artifacts import download_artifacts

    with refusals(), uploading():
        download_artifacts(
            artifact_uri=f"models:/{model_id(version)}",
            dst_path=str(folder),
            tracking_uri=client().tracking_uri,
        )
    if not (folder / "MLmodel").is_file():  # MLflow takes a place without files for an empty one
        raise TrackingError(
            f"{version.name}/{version.version}: MLflow at {place()} has this version, but not its files;"
            " pass another, or its checkpoint's folder"
        )


def checkpoint_of(folder: Path) -> Path:
    """Where the checkpoint is in a downloaded model. Raises TrackingError if there is none."""
    from mlflow.models import Model

    artifacts = Model.load(str(folder)).flavors.get("python_function", {}).get("artifacts") or {}
    if "checkpoint" not in artifacts:
        raise TrackingError(
            f"{folder}: expected a model with a checkpoint in it, found none; pass a version that"
            " 'clipflow register' made"
        )
    return folder / str(artifacts["checkpoint"]["path"])
