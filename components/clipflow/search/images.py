"""The images that are searched, each known by its number: those of a folder, or of a `pairs` artifact."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from clipflow import store
from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Decoders of other formats never see a file, whatever it is called."""
MAX_PIXELS = 100_000_000

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS decides


class UnreadableError(Exception):
    """Why an image can't be read, in words."""


class Images(Protocol):
    """Images by number, from 0."""

    where: str
    """As the user named them."""
    digest: str
    """32 hex digits that change when an image does."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, number: int) -> str:
        """What the user calls an image: its path in the folder, or its key."""

    def caption(self, number: int) -> str | None:
        """Its caption, if it has one."""

    def data(self, number: int) -> bytes:
        """The file's bytes. Raises OSError if they can't be read any more."""


def find(location: str) -> Images:
    """The images of a folder or `pairs` artifact, local or at an s3:// URL, which is downloaded once.

    Raises ArtifactError if there are none, StoreError if the object store can't be used.
    """
    if store.is_url(location):
        is_artifact = any(name == manifest.MANIFEST for name, *_ in store.listing(location))
        folder = store.at_hand(location) if is_artifact else store.mirror(location)
    else:
        folder = store.at_hand(location)
    if (folder / manifest.MANIFEST).is_file():
        return PairsImages(location, folder)
    return FolderImages(location, folder)


class FolderImages:
    """The image files in a folder and below it, in the order of their paths."""

    def __init__(self, where: str, folder: Path) -> None:
        if not folder.is_dir():
            raise ArtifactError(
                f"--images {where}: expected a folder of images or pairs, found"
                f" {'a file' if folder.exists() else 'nothing there'}; pass a folder"
            )
        self.where, self.folder = where, folder
        self.names = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        if not self.names:
            raise ArtifactError(
                f"--images {where}: expected files ending in {', '.join(SUFFIXES)}, found none there or"
                " below; pass a folder of images, or the output of 'clipflow ingest'"
            )
        facts = [(name, *_size_and_time(folder / name)) for name in self.names]
        self.digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, number: int) -> str:
        """Its path below the folder."""
        return self.names[number]

    def caption(self, number: int) -> str | None:
        """There are none."""
        return None

    def data(self, number: int) -> bytes:
        """The file's bytes."""
        return (self.folder / self.names[number]).read_bytes()


class PairsImages:
    """The images of a `pairs` artifact with their captions, in shard order."""

    def __init__(self, where: str, folder: Path) -> None:
        self.where = where
        self.pairs = Pairs(folder)
        self.digest = manifest.digest(folder)
        indexes = list(self.pairs.indexes())
        self.table = pa.concat_tables(indexes)
        self.ends = np.cumsum([len(index) for index in indexes])

    def __len__(self) -> int:
        return len(self.table)

    def name(self, number: int) -> str:
        """Its key."""
        return str(self.table["key"][number].as_py())

    def caption(self, number: int) -> str | None:
        """Its caption."""
        return str(self.table["caption"][number].as_py())

    def data(self, number: int) -> bytes:
        """Its JPEG."""
        shard = self.pairs.shards[int(np.searchsorted(self.ends, number, side="right"))]
        offset, size = (self.table[name][number].as_py() for name in ("offset", "size"))
        with shard.open("rb") as file:
            return os.pread(file.fileno(), size, offset)


def decode(data: bytes) -> Image.Image:
    """An upright RGB image, transparency laid on white. Raises UnreadableError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableError(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:  # damaged and hostile files make Pillow raise nearly anything
        reason = "no image of a known format" if "cannot identify" in str(error) else str(error)
        raise UnreadableError(" ".join(reason.split()) or type(error).__name__) from None


def _size_and_time(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
