"""Registered versions by the names that people give them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from clipflow.errors import TrackingError, did_you_mean
from clipflow.track import files
from clipflow.track.queries import aliases
from clipflow.track.server import client, connect, look_up, place, refusals

NAME = re.compile(r"(?:models:/)?(?P<model>[^@/:]+)(?:@(?P<alias>[\w.-]+)|/(?P<number>\d+))")


def is_name(text: str) -> bool:
    """Whether a text has the form of a version's name: MODEL@alias or MODEL/VERSION."""
    return bool(NAME.fullmatch(text))


def find(name: str) -> Any:
    """The MLflow version that `MODEL@alias` or `MODEL/VERSION` names.

    Raises TrackingError, naming what there is, if there is none.
    """
    found = NAME.fullmatch(name)
    if not found:
        raise TrackingError(
            f"expected MODEL@alias or MODEL/VERSION, got '{name}'; such as m@champion"
        )
    model, alias, number = found["model"], found["alias"], found["number"]
    known = model_named(model).aliases
    if alias and alias not in known:
        hint = did_you_mean(alias, known) if known else "it has none; run 'clipflow register'"
        raise TrackingError(f"{model}@{alias}: MLflow at {place()} has no such alias; {hint}")
    number = number or str(known[alias])
    version = look_up(client().get_model_version, model, number)
    if version is None:
        raise TrackingError(
            f"{model}/{number}: MLflow at {place()} has no such version (any more); aliases:"
            f" {', '.join(f'@{a} is {n}' for a, n in sorted(known.items())) or 'none'}"
        )
    return version


def model_named(model: str) -> Any:
    """The registered MLflow model. Raises TrackingError, naming those there are, if there is none."""
    connect()
    found = look_up(client().get_registered_model, model)
    if found:
        return found
    with refusals():
        names = [other.name for other in client().search_registered_models()]
    hint = did_you_mean(model, names) if names else "it has none; run 'clipflow register'"
    raise TrackingError(f"{model}: MLflow at {place()} has no such model; {hint}")


def of_checkpoint(digest: str) -> list[Any]:
    """Every registered MLflow version of the checkpoint, of any model, oldest first."""
    with refusals():
        found = client().search_model_versions(f"tags.checkpoint_digest = '{digest}'")
    return sorted(found, key=lambda version: int(version.creation_timestamp))


def checkpoint_file(version: Any, name: str, folder: Path) -> Path | None:
    """A file of a version's checkpoint, or all of it for `.`, put into `folder`; None if it isn't there.

    The checkpoint has the name in the model that its folder had where it was registered.
    """
    described = files.model_file(version, "MLmodel", folder)
    if described is None:
        return None
    flavor = YAML(typ="safe", pure=True).load(described)["flavors"]["python_function"]
    if "checkpoint" not in (flavor.get("artifacts") or {}):
        return None  # no model of ours
    path = Path(flavor["artifacts"]["checkpoint"]["path"]) / name
    return files.model_file(version, path.as_posix(), folder)


def title(version: Any) -> str:
    """`clipflow version 3 @champion`, with the aliases as they are now."""
    held = [f"@{alias}" for alias in aliases(version)]
    return " ".join([version.name, "version", str(version.version), *held])
