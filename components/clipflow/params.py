"""params.yaml -> one frozen, strict model per stage.

A stage sees its own section and nothing else. Where a section selects from a catalogue
(`pretrain.recipe: laclip`), the selected entry (`recipes.laclip`) takes the name's place, so that
`load(path, "pretrain").recipe` is a `LaCLIP` object and editing another recipe changes nothing here.
The same text, cut down to one stage, is what a Kubeflow component receives.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from clipflow.catalogue import Catalogue, Section
from clipflow.errors import ParamsError, did_you_mean

STAGES = ("ingest", "rewrite", "pretrain", "evaluate", "register")
# stage -> (the key that selects, the section selected from, the package that holds the choices)
SELECTS = {
    "ingest": ("source", "sources", "clipflow.ingest.sources"),
    "rewrite": ("generator", "generators", "clipflow.rewrite.generators"),
    "pretrain": ("recipe", "recipes", "clipflow.recipes"),
}
SECTIONS = (*STAGES, *(section for _, section, _ in SELECTS.values()))


def read(path: Path) -> dict[str, Any]:
    """The plain contents of a params file. Raises ParamsError if it is no YAML mapping of known keys."""
    try:
        # DVC writes params with ruamel; PyYAML would read its `5e-05` as a string.
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such params file; pass --params FILE") from None
    except YAMLError as error:
        line = " ".join(str(error).split())
        raise ParamsError(f"{path}: not valid YAML: {line}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected sections {', '.join(SECTIONS)}, found {values!r}")
    for section in values:
        if section not in SECTIONS:
            raise ParamsError(
                f"{path}: unknown section '{section}'; {did_you_mean(str(section), SECTIONS)}"
            )
    return values


def load(path: Path, stage: str) -> Any:
    """The validated `Params` of one stage. Raises ParamsError naming the file, the key and the mend."""
    return parse(select(read(path), stage, where=str(path)), stage, where=str(path))


def select(values: dict[str, Any], stage: str, *, where: str = "params") -> dict[str, Any]:
    """The stage's section with its catalogue entry put in: plain data, ready for JSON or `parse`."""
    if not isinstance(values.get(stage), dict):
        raise ParamsError(f"{where}: section '{stage}' is missing")
    section = dict(values[stage])
    if stage in SELECTS:
        key, catalogue, _ = SELECTS[stage]
        name = section.get(key)
        entries = values.get(catalogue) or {}
        if name not in entries:
            raise ParamsError(
                f"{where}: {stage}.{key}: no entry '{name}' under '{catalogue}:'; "
                f"{did_you_mean(str(name), entries)}"
            )
        if not isinstance(entries[name], (dict, type(None))):
            raise ParamsError(
                f"{where}: {catalogue}.{name}: expected its keys with their values, got {entries[name]!r}"
            )
        section[key] = {"name": name, **(entries[name] or {})}
    return section


def whole(section: dict[str, Any], stage: str) -> dict[str, Any]:
    """A params file, as data, from which `select` gives this section back."""
    if stage not in SELECTS:
        return {stage: section}
    key, catalogue, _ = SELECTS[stage]
    entry = dict(section[key])
    name = entry.pop("name")
    return {stage: section | {key: name}, catalogue: {name: entry}}


def parse(section: dict[str, Any] | str, stage: str, *, where: str = "params") -> Any:
    """A stage's `Params` from its selected section, given as data or as JSON text."""
    values: dict[str, Any] = json.loads(section) if isinstance(section, str) else dict(section)
    if stage in SELECTS:
        key, catalogue, package = SELECTS[stage]
        choice = values.get(key)
        if isinstance(choice, dict):
            name = str(choice.get("name"))
            cls = Catalogue(package).load(name, where=f"{where}: {stage}.{key}")
            values[key] = _validated(cls, choice, f"{where}: {catalogue}.{name}")
    return _validated(model(stage), values, f"{where}: {stage}")


def model(stage: str) -> type[Section]:
    """The stage's params class, imported only now: a stage needs its own packages alone."""
    cls: type[Section] = importlib.import_module(f"clipflow.{stage}.params").Params
    return cls


def flat(params: Section) -> dict[str, str | int | float | bool | None]:
    """`{"recipe.name": "laclip", ...}`: dotted keys, as MLflow shows and searches them."""
    return flattened(params.model_dump(mode="json"))


def flattened(plain: dict[str, Any]) -> dict[str, str | int | float | bool | None]:
    """The same of a section given as data."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key in value for k, v in walk(f"{prefix}.{key}", value[key]).items()}
        return {prefix: json.dumps(value) if isinstance(value, list) else value}

    return {k: v for key in plain for k, v in walk(key, plain[key]).items()}


def _validated(cls: type[Section], values: dict[str, Any], where: str) -> Section:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *(str(part) for part in first["loc"])])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(str(first["loc"][-1]), set(cls.model_fields) - {"name"})
            raise ParamsError(f"{key}: unknown key; {hint}{more}") from None
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        message = first["msg"].removeprefix("Value error, ")
        raise ParamsError(f"{key}: {message[0].lower()}{message[1:]}{got}{more}") from None
