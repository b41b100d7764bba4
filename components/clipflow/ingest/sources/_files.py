"""What sources that read files share: where the data are, stable keys, a stable hold-out."""

from __future__ import annotations

import hashlib
from pathlib import Path

from clipflow.errors import ArtifactError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def existing(path: Path, what: str) -> Path:
    """The path itself. Raises ArtifactError if nothing is there."""
    if not path.exists():
        raise ArtifactError(
            f"{path}: expected {what}, found nothing there; check ingest.data and paths"
        )
    return path


def images_under(folder: Path) -> list[Path]:
    """Every image file below a folder, by suffix, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def key(name: str) -> str:
    """16 hex digits that identify a sample by its name: adding other files never changes them."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def held_out(sample_key: str, seed: int, share: float) -> bool:
    """Whether the sample is in the held-out `share`: by its key, so that others don't move it."""
    draw = hashlib.sha256(f"{seed}/{sample_key}".encode()).digest()
    return int.from_bytes(draw[:8], "big") < share * 2**64
