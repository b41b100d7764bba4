"""What a checkpoint says of the data that it was made of, for those who have only the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest
from clipflow.artifacts import pairs as pairs_artifact
from clipflow.artifacts import rewrites as rewrites_artifact


def of_data(pairs: Path, rewrites: Path) -> dict[str, Any]:
    """Figures of the manifests: how many pairs, from which source, what was left out; whose rewrites.

    What a manifest doesn't say is None. Raises ArtifactError for other kinds of folders.
    """
    taken = manifest.read(pairs, pairs_artifact.SCHEMA)
    written = manifest.read(rewrites, rewrites_artifact.SCHEMA)
    generator = written.get("generator") or {}
    return {
        "pairs": {
            "num_pairs": taken["num_pairs"],
            "source": taken.get("source"),
            "left_out": {why: found["count"] for why, found in taken["left_out"].items()},
        },
        "rewrites": {
            "generator": generator.get("name"),
            "model": generator.get("model"),
            "accepted": _accepted(written["outcomes_by_source"]),
            "num_without_rewrite": written["num_without_rewrite"],
        },
    }


def _accepted(outcomes: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {name: counts.get(rewrites_artifact.ACCEPTED, 0) for name, counts in outcomes.items()}
