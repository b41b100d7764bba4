"""A registered version as a folder for others: open_clip loads it, and the Hugging Face hub shows its card.

FOLDER/open_clip_model.safetensors   the weights, by the name that open_clip looks for on the hub
FOLDER/open_clip_config.json         architecture and preprocessing; beside it a tokenizer's files, if any
FOLDER/README.md                     the model card, below what the hub reads of it
FOLDER/manifest.json                 of which version it is, and digests

What was logged while training stays behind: its examples are images of the training data.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.errors import ArtifactError, TrackingError
from clipflow.track import files, versions

SCHEMA = "clipflow.export/1"
WEIGHTS = "open_clip_model.safetensors"
CARD = "README.md"
UNKNOWN = "unknown"
"""The hub's name for a license that nobody has chosen."""
LEFT_BEHIND = (
    checkpoints.HISTORY,
    checkpoints.EXAMPLES,
    checkpoints.PROVENANCE,
    manifest.MANIFEST,
)


def run(name: str, out: Path, *, license_: str = UNKNOWN, datasets: Sequence[str] = ()) -> str:
    """Write the folder of the version that `MODEL@alias` or `MODEL/VERSION` names, complete or absent.

    license_, datasets: as the hub calls them; nothing in the artifacts tells. Returns the version's title.
    Raises TrackingError if there is no such version or it lacks files, ArtifactError if `out` is there and
    no export, or if the weights are not those that were registered.
    """
    _check_replaceable(out)
    version = versions.find(name)
    with tempfile.TemporaryDirectory() as downloads:
        checkpoint = versions.checkpoint_file(version, ".", Path(downloads))
        card = files.model_file(version, CARD, Path(downloads) / "card")
        if checkpoint is None or card is None:
            lacking = "checkpoint" if checkpoint is None else "model card"
            raise TrackingError(
                f"{version.name}/{version.version}: expected a {lacking} among the model's files in MLflow,"
                " found none; run 'clipflow register' on its checkpoint and report again"
            )
        facts = checkpoints.read(checkpoint)
        _check_weights(checkpoint, facts)
        front = _front_matter(facts, license_, datasets)
        with manifest.complete_or_absent(out) as folder:
            _copy(checkpoint, folder)
            (folder / CARD).write_text(front + card.read_text(encoding="utf-8"), encoding="utf-8")
            kept = sorted(file for file in folder.rglob("*") if file.is_file())
            manifest.write(
                folder,
                SCHEMA,
                model=version.name,
                version=str(version.version),
                checkpoint=manifest.digest(checkpoint),
                sha256={str(f.relative_to(folder)): manifest.file_digest(f) for f in kept},
            )
    return versions.title(version)


def _check_replaceable(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest.read(out, SCHEMA)
    except ArtifactError:
        raise ArtifactError(
            f"{out}: expected no such folder, or an export to replace, found something else;"
            " choose another --out"
        ) from None


def _check_weights(checkpoint: Path, facts: dict[str, Any]) -> None:
    wanted = facts.get("sha256", {}).get(checkpoints.WEIGHTS)
    found = manifest.file_digest(checkpoint / checkpoints.WEIGHTS)
    if wanted not in (None, found):
        raise ArtifactError(
            f"{checkpoints.WEIGHTS} in MLflow: damaged, expected SHA-256 {wanted}, found {found};"
            " restore the server's artifacts, or register the checkpoint anew"
        )


def _copy(checkpoint: Path, folder: Path) -> None:
    """What open_clip reads, under the names that it looks for."""
    shutil.copytree(
        checkpoint,
        folder,
        ignore=lambda _, names: set(LEFT_BEHIND) & set(names),
        dirs_exist_ok=True,
    )
    (folder / checkpoints.WEIGHTS).rename(folder / WEIGHTS)


def _front_matter(facts: dict[str, Any], license_: str, datasets: Sequence[str]) -> str:
    """What the hub reads, by the section "Model card metadata" of its documentation."""
    told = {
        "license": license_,
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", str(facts["recipe"]), str(facts["architecture"])],
        **({"datasets": list(datasets)} if datasets else {}),
    }
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(told, text)
    return f"---\n{text.getvalue()}---\n\n"
