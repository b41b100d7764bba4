"""Whether an object is what Kubernetes takes, unknown fields refused.

Built-in kinds by kubernetes-validate. Others by their CustomResourceDefinition in tests/schemas: the API
server prunes fields that it does not know without a word, so here every object of a schema is closed.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from fakes.artifacts import ROOT
from manifests.render import Manifest, name_of

CRDS = ROOT / "tests" / "schemas"
VERSIONS = ("1.32", "1.37")
"""The oldest and the newest Kubernetes that is checked against."""


def problems(manifest: Manifest) -> list[str]:
    """What is wrong with an object; nothing if it is valid."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    definition = definitions().get((group, manifest["kind"]))
    if definition is None:
        return _built_in(manifest)
    if version not in definition:
        return [f"{name_of(manifest)}: {group} has no version {version}"]
    found = jsonschema.Draft202012Validator(definition[version]).iter_errors(manifest)
    return [f"{name_of(manifest)}: {error.json_path}: {error.message}" for error in found]


def _built_in(manifest: Manifest) -> list[str]:
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            found.append(f"{name_of(manifest)}: {place}: {error.message} (Kubernetes {version})")
        except kubernetes_validate.SchemaNotFoundError:
            found.append(
                f"{name_of(manifest)}: no schema of {manifest['apiVersion']} in Kubernetes {version};"
                " if it is a custom kind, put its CRD into tests/schemas"
            )
    return found


@functools.cache
def definitions() -> dict[tuple[str, str], dict[str, Any]]:
    """For each custom kind its served versions and their closed schemas."""
    return {
        (crd["spec"]["group"], crd["spec"]["names"]["kind"]): {
            version["name"]: closed(version["schema"]["openAPIV3Schema"])
            for version in crd["spec"]["versions"]
            if version["served"]
        }
        for crd in map(_load, sorted(CRDS.glob("*.yaml")))
    }


def _load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def closed(schema: Any) -> Any:
    """A structural schema of Kubernetes as a JSON schema in which unknown fields are errors."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        # `properties` maps names to schemas; a field may well be named like a keyword.
        key: {name: closed(item) for name, item in value.items()}
        if key == "properties"
        else value
        if key in ("default", "enum", "required", "format")
        else closed(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-")
        and key not in ("description", "format", "default", "nullable")
    }
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    return made
