"""Batches: which pairs a step sees, and what becomes of each on its way.

Both are pure functions of (seed, step): a resumed run, or one with other numbers of workers or
processes, sees the same batches with the same crops and the same caption draws.
"""

from __future__ import annotations

import io
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clipflow.errors import ArtifactError, ParamsError
from clipflow.model.batch import Batch
from clipflow.model.shortening import shortened
from clipflow.model.texts import grouped
from clipflow.model.tokens import Tokenizer
from clipflow.model.towers import Towers
from clipflow.pretrain import phases
from clipflow.pretrain.params import Params
from clipflow.pretrain.samples import Samples
from clipflow.recipes import Phase, at

ASPECT_RATIOS = 3 / 4, 4 / 3
MAX_DAMAGED_IN_A_ROW = 10
DRAFT_GAP = 2
"""A crop keeps at least so many times the pixels it is resized to, which hides how it was decoded."""


@dataclass(frozen=True)
class Draw:
    """A pair's row, the epoch that seeds its crop and its caption, and the phase that it is shown in."""

    row: int
    epoch: int
    phase: Phase


class Order(Sampler[list[Draw]]):
    """A process's share of each step: per epoch a new permutation, its last partial batch dropped."""

    def __init__(
        self, num_pairs: int, params: Params, *, start: int, rank: int, world: int
    ) -> None:
        """Raises ParamsError if the batch exceeds the data or doesn't divide among processes."""
        if params.batch_size > num_pairs:
            raise ParamsError(
                f"pretrain.batch_size: {params.batch_size} exceeds the {num_pairs} pairs there are; "
                "lower it, or ingest more"
            )
        if params.batch_size % world:
            raise ParamsError(
                f"pretrain.batch_size: {params.batch_size} is not a multiple of the {world} processes"
            )
        self.num_pairs, self.params, self.start = num_pairs, params, start
        self.local = slice(
            rank * params.batch_size // world, (rank + 1) * params.batch_size // world
        )

    def __len__(self) -> int:
        return self.params.steps - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        size = self.params.batch_size
        steps_per_epoch = self.num_pairs // size
        epoch, rows = -1, torch.empty(0)
        for step in range(self.start, self.params.steps):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                seed = random.Random(f"{self.params.seed}/order/{epoch}").getrandbits(63)
                rows = torch.randperm(self.num_pairs, generator=torch.Generator().manual_seed(seed))
            first = step % steps_per_epoch * size
            _, _, phase = at(self.params.phases, step)
            yield [Draw(int(row), epoch, phase) for row in rows[first : first + size][self.local]]


class View(NamedTuple):
    """What one pair shows in one step."""

    image: UInt8[np.ndarray, "size size 3"]
    texts: list[str]
    row: int
    damaged: list[str]
    """Keys of the samples that could not be read and that this one stands in for."""
    draw: Draw
    """What was asked for."""
    patches: list[int] | None
    """Which patches of the image are kept; None: all."""


class Views(Dataset[View]):
    """What each pair becomes: a random crop of its image, and the texts that it shows."""

    def __init__(self, samples: Samples, params: Params, towers: Towers) -> None:
        self.samples, self.params = samples, params
        self.size_px, self.patch_size_px = towers.image_size_px, towers.patch_size_px

    def __getitem__(self, draw: Draw) -> View:
        """The pair's view, or that of the next pair whose image can be read.

        Raises ArtifactError if ten in a row can't be.
        """
        damaged: list[str] = []
        for row in range(draw.row, draw.row + MAX_DAMAGED_IN_A_ROW):
            row %= len(self.samples)
            rng = random.Random(f"{self.params.seed}/{draw.epoch}/{row}")
            texts = self.params.texts_of(*self.samples.texts(row), rng)
            try:
                side = phases.side_px(draw.phase, self.size_px, self.patch_size_px)
                image = cropped(self.samples.image(row), side, self.params.crop_scale_min, rng)
                return View(image, texts, row, damaged, draw, self._patches(draw.phase, rng))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                damaged.append(self.samples.key(row))
        raise ArtifactError(
            f"{self.samples.shards[0].parent}: {MAX_DAMAGED_IN_A_ROW} images in a row can't be read, from"
            f" key '{damaged[0]}' to '{damaged[-1]}'; make it again with 'clipflow ingest'"
        )

    def _patches(self, phase: Phase, rng: random.Random) -> list[int] | None:
        """Which patches are kept: any set of so many is as likely as any other."""
        if not phase.patch_dropout or self.patch_size_px is None:
            return None
        there, kept = phases.num_patches(phase, self.size_px, self.patch_size_px)
        return sorted(rng.sample(range(there), kept))


def cropped(
    jpeg: bytes, size_px: int, scale_min: float, rng: random.Random
) -> UInt8[np.ndarray, "size size 3"]:
    """A random part of an image, resized to a square.

    Raises OSError, SyntaxError or ValueError for what is no image.
    """
    image = Image.open(io.BytesIO(jpeg))
    full_width, full_height = image.size
    left, top, width, height = crop_box(full_width, full_height, scale_min, rng)
    # A large JPEG decodes at 1/2, 1/4 or 1/8 for less work.
    left_px = DRAFT_GAP * size_px
    image.draft("RGB", (full_width * left_px // width, full_height * left_px // height))
    x, y = image.width / full_width, image.height / full_height
    box = (left * x, top * y, (left + width) * x, (top + height) * y)
    if image.mode != "RGB":
        image = image.convert("RGB")  # type: ignore[assignment]
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))


def crop_box(
    full_width: int, full_height: int, scale_min: float, rng: random.Random
) -> tuple[int, int, int, int]:
    """Left, top, width and height in px of a random resized crop.

    Its area is uniform between `scale_min` and 1 of the image's, the logarithm of its aspect ratio between
    those of 3:4 and 4:3; where ten draws don't fit, the largest central one of the nearest ratio.

    Source: Szegedy et al. 2015 (arXiv:1409.4842), section 6, with the bounds that CLIP's trainers use.
    """
    for _ in range(10):
        area = full_width * full_height * rng.uniform(scale_min, 1)
        ratio = math.exp(rng.uniform(*map(math.log, ASPECT_RATIOS)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left, top = rng.randint(0, full_width - width), rng.randint(0, full_height - height)
            return left, top, width, height
    narrowest, widest = ASPECT_RATIOS
    width = min(full_width, max(1, round(full_height * widest)))
    height = min(full_height, max(1, round(full_width / narrowest)))
    return (full_width - width) // 2, (full_height - height) // 2, width, height


class Collate:
    """Stacks views, and tokenises, shortens and groups their texts."""

    def __init__(self, towers: Towers, seed: int) -> None:
        self.tokenize, self.trims_text = Tokenizer(towers.tokenizer), towers.trims_text
        self.seed = seed

    def __call__(self, views: list[View]) -> Batch:
        """One batch."""
        tokens = self.tokenize([text for view in views for text in view.texts])
        phase = views[0].draw.phase
        if phase.text_tokens is not None and phase.text_tokens < tokens.shape[1]:
            tokens = self._shortened(tokens.unflatten(0, (len(views), -1)), views, phase)
        return Batch(
            images=torch.from_numpy(np.stack([view.image for view in views])),
            texts=grouped(tokens.unflatten(0, (len(views), -1)), trims=self.trims_text),
            rows=[view.row for view in views],
            damaged=[key for view in views for key in view.damaged],
            patches=torch.tensor([view.patches for view in views]) if views[0].patches else None,
        )

    def _shortened(
        self, tokens: Int[Tensor, "batch texts context"], views: list[View], phase: Phase
    ) -> Int[Tensor, "all length"]:
        """The texts as the phase shows them, drawn anew for each pair in each epoch."""
        length = phase.text_tokens or tokens.shape[2]
        short = tokens.new_zeros(*tokens.shape[:2], length)
        ends = tokens.argmax(2).tolist()  # the end-of-text token has the largest id
        for place, view in enumerate(views):
            rng = random.Random(f"{self.seed}/tokens/{view.draw.epoch}/{view.row}")
            for version, end in enumerate(ends[place]):
                ids = tokens[place, version, : end + 1].tolist()
                kept = shortened(ids, length, phase.shortening, rng)
                short[place, version, : len(kept)] = torch.tensor(kept)
        return short.flatten(0, 1)


def num_workers() -> int:
    """Loader processes: CLIPFLOW_WORKERS, else one less than the cores, at most 8."""
    return int(os.environ.get("CLIPFLOW_WORKERS", min(8, (os.cpu_count() or 1) - 1)))


def advice(wait_share: float) -> str | None:
    """What to do about the share of time that training waited for data; None if it is small."""
    if wait_share < 0.05:
        return None
    workers, cores = num_workers(), os.cpu_count() or 1
    remedy = (
        f"set CLIPFLOW_WORKERS above {workers}, there are {cores} cores"
        if workers < cores - 1
        else f"all {cores} cores are busy: take more of them, or ingest smaller images"
    )
    return f"{wait_share:.0%} of the time was spent waiting for data; {remedy}"


def loader(
    samples: Samples, params: Params, towers: Towers, *, start: int, rank: int, world: int
) -> DataLoader[Batch]:
    """Batches of this process from step `start` to the end."""
    workers = num_workers()
    return DataLoader(
        Views(samples, params, towers),  # type: ignore[arg-type]
        batch_sampler=Order(len(samples), params, start=start, rank=rank, world=world),
        collate_fn=Collate(towers, params.seed),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
