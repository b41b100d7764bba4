"""What sources that read files share: where the data are, and which files are images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipflow.errors import ArtifactError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def existing(path: Path, what: str) -> Path:
    """The path itself. Raises ArtifactError if nothing is there."""
    if not path.exists():
        raise ArtifactError(f"{path}: expected {what}, found nothing there; check ingest.data")
    return path


def file_below(root: Path, name: str, what: str) -> Path:
    """That file below `root`, or anywhere if absolute. Raises ArtifactError if there is none."""
    path = root / name
    if not path.is_file():
        raise ArtifactError(
            f"{path}: expected {what}, found no such file; a relative path starts at ingest.data"
        )
    return path


def lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends. Raises ArtifactError at the first that is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ArtifactError(
                    f"{path}: expected UTF-8, got the byte 0x{line[error.start]:02x} in line {number}; "
                    "convert it, for example with 'iconv -f LATIN1 -t UTF-8'"
                ) from None
            yield text


def is_hidden(path: Path) -> bool:
    """Whether any part of a relative path starts with a dot, as `.ipynb_checkpoints` does."""
    return any(part.startswith(".") for part in path.parts)


def images_under(folder: Path) -> list[Path]:
    """Every image file below a folder, by suffix, sorted; hidden files and folders are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.relative_to(folder))
    )
