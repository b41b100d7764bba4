"""`checkpoint`: a trained model that open_clip loads as is, and where it came from.

checkpoint/model.safetensors        the weights
checkpoint/open_clip_config.json    architecture and preprocessing, as open_clip's `local-dir:` reads
checkpoint/similarity.safetensors   how images are compared with texts, where it isn't by the dot product of
                                    what the towers pool; then manifest.json has its kind, `similarity`
checkpoint/manifest.json            recipe, params, digests
checkpoint/history.parquet          step, loss, ...: what was logged while training
checkpoint/examples.parquet         a few training pairs: key, image (JPEG), caption, rewrites
checkpoint/provenance.json          git commit, image, input digests, MLflow run: the lineage key; versions
                                    of the packages that load it, as they were where it was trained

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:artifacts/checkpoint")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest
from clipflow.errors import ArtifactError

SCHEMA = "clipflow.checkpoint/1"
WEIGHTS = "model.safetensors"
CONFIG = "open_clip_config.json"
SIMILARITY = "similarity.safetensors"
HISTORY = "history.parquet"
EXAMPLES = "examples.parquet"
PROVENANCE = "provenance.json"
PACKAGES = ("numpy", "open_clip_torch", "pillow", "torch", "torchvision")
"""What loads a checkpoint."""
VERSIONS = "packages"
"""Where provenance has their versions."""


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises ArtifactError if what it is loaded from is missing."""
    facts = manifest.read(folder, SCHEMA)
    for name in (WEIGHTS, CONFIG, *([SIMILARITY] if facts.get("similarity") else [])):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name}: missing; make it again with 'clipflow pretrain'")
    return facts


def versions(folder: Path) -> dict[str, str | None]:
    """The versions of PACKAGES with which the checkpoint was trained; None where that was not noted."""
    noted = provenance(folder).get(VERSIONS, {})
    return {name: noted.get(name) for name in PACKAGES}


def provenance(folder: Path) -> dict[str, Any]:
    """The lineage key that pretrain wrote: `mlflow_run_id`, `git_sha`, ... Raises ArtifactError."""
    path = folder / PROVENANCE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: expected the lineage of a checkpoint, found none that can be read"
            f" ({type(error).__name__}); make it again with 'clipflow pretrain'"
        ) from None
