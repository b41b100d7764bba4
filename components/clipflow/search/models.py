"""What `--model` names: a registered version, a folder, or a name that others know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipflow import store, track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import lock, manifest
from clipflow.errors import ArtifactError, TrackingError
from clipflow.model import pretrained
from clipflow.model.pretrained import Pretrained
from clipflow.track import files, versions


@dataclass(frozen=True)
class Model:
    """A model with what the page says of it."""

    name: str
    """As the user named it."""
    about: str
    """Version, recipe, architecture and size, as far as they are known."""
    clip: Pretrained


def load(name: str, weights: str | None, *, batch_size: int, option: str) -> Model:
    """The model called MODEL@ALIAS or MODEL/VERSION in MLflow, or as `pretrained.load` takes it.

    `weights` belong to an architecture of open_clip; `option` is that of the command line. A registered
    version is downloaded once. Raises ArtifactError, StoreError or TrackingError if it can't be had.
    """
    known, folder = [], name
    is_prefixed = name.startswith((pretrained.HUB, pretrained.TRANSFORMERS))
    if store.is_url(name):
        folder = str(store.at_hand(name))
    elif not is_prefixed and not Path(name).exists() and versions.is_name(name):
        version = versions.find(name)
        known.append(f"version {version.version}")
        folder = str(_downloaded(version))
    clip = pretrained.load(folder, weights, batch_size=batch_size, precision="auto", option=option)
    clip.need_dot_product("searching keeps")
    clip = replace(clip, name=name)  # not the folder where it was downloaded to
    if weights:
        known.append(weights)
    if Path(folder).is_dir():
        known += _facts(Path(folder))
    known.append(f"{clip.num_parameters / 1e6:.3g} M parameters")
    return Model(name, ", ".join(known), clip)


def _downloaded(version: Any) -> Path:
    folder: Path = store.scratch() / "models" / files.model_id(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock.held(folder.with_name(f"{folder.name}.lock"), wait=True):
        if not folder.is_dir():
            with manifest.complete_or_absent(folder) as partial:
                found = versions.checkpoint_file(version, ".", partial)
                if found is None:
                    raise TrackingError(
                        f"{version.name}/{version.version}: MLflow at {track.place()} has this version, but"
                        " not its files; pass another, or its checkpoint's folder"
                    )
                found.rename(partial / "checkpoint")
    return folder / "checkpoint"


def _facts(folder: Path) -> list[str]:
    """Recipe and architecture of a checkpoint of ours."""
    try:
        facts = manifest.read(folder, checkpoints.SCHEMA)
    except ArtifactError:
        return []
    return [str(facts[key]) for key in ("recipe", "architecture") if key in facts]
