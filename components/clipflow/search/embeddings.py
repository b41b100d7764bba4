"""A unit vector for every image, made once per model and images and kept in scratch.

search/<model>/<images>/000000000.npz  of the images from number 0 on:
    vectors   float32 [readable images, dim]
    numbers   int64 [readable images]: which image each row is of
    left_out  int64 [others], and reasons, str [others]: why they can't be read
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from clipflow import log, store
from clipflow.artifacts import manifest
from clipflow.errors import ArtifactError
from clipflow.lookahead import ahead
from clipflow.model.pretrained import Pretrained
from clipflow.search.images import Images, UnreadableError, decode

logger = logging.getLogger(__name__)

IMAGES_PER_PART = 2048
"""What is lost at most when the process is killed."""
MAX_NAMED = 5


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors, and the number of the image that each is of."""

    vectors: Float32[np.ndarray, "rows dim"]
    numbers: Int64[np.ndarray, " rows"]
    left_out: dict[int, str]
    """Why an image has no vector, by number."""


def embed(model: Pretrained, images: Images) -> Embeddings:
    """The images' embeddings: read if they have been made, else made, going on where a killed run was.

    An image that can't be read is left out, and the log names it. Raises ArtifactError if none can be,
    ClipflowError if another process is making the same.
    """
    folder = store.scratch() / "search" / f"{model.digest}-{model.precision}" / images.digest
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make(model, images, folder)
    found = _read(folder)
    if found.left_out:
        worst = islice(found.left_out.items(), MAX_NAMED)
        logger.warning(
            "%d of %d images can't be read and are left out: %s%s",
            len(found.left_out), len(images),
            ", ".join(f"{images.name(number)} ({why})" for number, why in worst),
            ", ..." if len(found.left_out) > MAX_NAMED else "",
        )  # fmt: skip
    if not len(found.numbers):
        raise ArtifactError(
            f"--images {images.where}: none of {len(images)} images can be read, the first for"
            f" '{next(iter(found.left_out.values()))}'; pass a folder of images"
        )
    return found


def _make(model: Pretrained, images: Images, folder: Path) -> None:
    logger.info(
        "%s on %s in %s: embedding %d images of %s",
        model.name, model.device, model.precision, len(images), images.where,
    )  # fmt: skip
    with (
        manifest.resumable(folder, IMAGES_PER_PART) as partial,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        log.counter(total=len(images), what="embedding", unit="image") as bar,
    ):
        for start in range(0, len(images), IMAGES_PER_PART):
            numbers = range(start, min(start + IMAGES_PER_PART, len(images)))
            part = partial / f"{start:09d}.npz"
            if part.exists():
                bar.update(len(numbers))
            else:
                _write_part(model, images, numbers, part, pool, bar.update)


def _read(folder: Path) -> Embeddings:
    parts = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    vectors = [part["vectors"] for part in parts if len(part["numbers"])]
    return Embeddings(
        np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32),
        np.concatenate([part["numbers"] for part in parts]),
        {
            int(number): str(why)
            for part in parts
            for number, why in zip(part["left_out"], part["reasons"], strict=True)
        },
    )


def _write_part(
    model: Pretrained,
    images: Images,
    numbers: range,
    part: Path,
    pool: ThreadPoolExecutor,
    done: Callable[[int], object],
) -> None:
    """One part, aside and then renamed; `done(n)` hears of images that are embedded."""
    vectors, kept, left_out, reasons = [], [], [], []
    decoded = _decoded(model, images, numbers, pool)
    while batch := list(islice(decoded, model.batch_size)):
        whole = [(number, pixels) for number, pixels in batch if isinstance(pixels, Tensor)]
        if whole:
            vectors.append(model.images([pixels for _, pixels in whole]).numpy())
        kept += [number for number, _ in whole]
        left_out += [number for number, pixels in batch if isinstance(pixels, str)]
        reasons += [pixels for _, pixels in batch if isinstance(pixels, str)]
        done(len(batch))
    aside = part.with_suffix(".partial")
    with aside.open("wb") as file:
        np.savez(
            file,
            vectors=np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32),
            numbers=np.array(kept, np.int64),
            left_out=np.array(left_out, np.int64),
            reasons=np.array(reasons, np.str_),
        )
    aside.replace(part)


def _decoded(
    model: Pretrained, images: Images, numbers: range, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Tensor | str]]:
    """Each image's pixels, or why there are none; threads are up to two batches ahead of the model."""

    def pixels(number: int) -> Tensor | str:
        try:
            return model.preprocess(decode(images.data(number)))
        except (UnreadableError, OSError) as error:
            return str(error)

    return ahead(pool, pixels, numbers, 2 * model.batch_size)
