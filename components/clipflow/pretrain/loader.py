"""Batches: which pairs a step sees, and what becomes of each on its way.

Both are pure functions of (seed, step): a resumed run, or one with other numbers of workers or
processes, sees the same batches with the same crops and the same caption draws.
"""

from __future__ import annotations

import io
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
from clipflow.model.crops import cropped
from clipflow.model.shortening import shortened
from clipflow.model.texts import grouped
from clipflow.model.tokens import Tokenizer
from clipflow.model.towers import Towers
from clipflow.pretrain import phases
from clipflow.pretrain.params import Params
from clipflow.pretrain.samples import Samples
from clipflow.recipes import Phase, at

MAX_DAMAGED_IN_A_ROW = 10


@dataclass(frozen=True)
class Draw:
    """A pair's row, the epoch that seeds its crop and its caption, and the phase that it is shown in."""

    row: int
    epoch: int
    phase: Phase


class Order(Sampler[list[Draw]]):
    """A process's share of each step: per epoch a new permutation, its last partial batch dropped."""

    def __init__(
        self,
        num_pairs: int,
        params: Params,
        *,
        start: int,
        rank: int,
        world: int,
        stop: int | None = None,
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
        self.stop = params.steps if stop is None else min(stop, params.steps)
        self.local = slice(
            rank * params.batch_size // world, (rank + 1) * params.batch_size // world
        )

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        size = self.params.batch_size
        steps_per_epoch = self.num_pairs // size
        epoch, rows = -1, torch.empty(0)
        for step in range(self.start, self.stop):
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
    others: list[UInt8[np.ndarray, "size size 3"]]
    """The recipe's own views of the image, if it has any."""


class Views(Dataset[View]):
    """What each pair becomes: a random crop of its image, its texts, and views that the recipe adds."""

    def __init__(self, samples: Samples, params: Params, towers: Towers) -> None:
        self.samples, self.params = samples, params
        self.size_px, self.patch_size_px = towers.image_size_px, towers.patch_size_px

    def __getitem__(self, draw: Draw) -> View:
        """The pair's view, or that of the next pair whose image can be read.

        Raises ArtifactError if ten in a row can't be.
        """
        damaged: list[str] = []
        recipe = self.params.recipe
        for row in range(draw.row, draw.row + MAX_DAMAGED_IN_A_ROW):
            row %= len(self.samples)
            rng = random.Random(f"{self.params.seed}/{draw.epoch}/{row}")
            texts = self.params.texts_of(*self.samples.texts(row), rng)
            try:
                side = phases.side_px(draw.phase, self.size_px, self.patch_size_px)
                image = Image.open(io.BytesIO(self.samples.image(row)))
                if recipe.num_views:
                    image.load()  # whole, once; a crop alone decodes no more than it shows
                crop = cropped(image, side, self.params.crop_scale_min, rng)
                patches = self._patches(draw.phase, rng)
                others = [recipe.view(image, side, rng) for _ in range(recipe.num_views)]
                return View(crop, texts, row, damaged, draw, patches, others)
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


class Collate:
    """Stacks views, and tokenises, shortens and groups their texts."""

    def __init__(self, towers: Towers, seed: int) -> None:
        self.tokenize, self.trims_text = Tokenizer(towers.tokenizer), towers.trims_text
        self.seed = seed

    def __call__(self, views: list[View]) -> Batch:
        """One batch."""
        tokens = self.tokenize([text for view in views for text in view.texts])
        others = [view.others for view in views]
        phase = views[0].draw.phase
        if phase.text_tokens is not None and phase.text_tokens < tokens.shape[1]:
            tokens = self._shortened(tokens.unflatten(0, (len(views), -1)), views, phase)
        return Batch(
            images=torch.from_numpy(np.stack([view.image for view in views])),
            texts=grouped(tokens.unflatten(0, (len(views), -1)), trims=self.trims_text),
            rows=[view.row for view in views],
            damaged=[key for view in views for key in view.damaged],
            patches=torch.tensor([view.patches for view in views]) if views[0].patches else None,
            views=torch.from_numpy(np.stack(others)) if others[0] else None,
            strings=[view.texts for view in views],
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
    samples: Samples,
    params: Params,
    towers: Towers,
    *,
    start: int,
    rank: int,
    world: int,
    stop: int | None = None,
) -> DataLoader[Batch]:
    """Batches of this process from step `start` to before `stop`, or to the end."""
    workers = num_workers()
    return DataLoader(
        Views(samples, params, towers),  # type: ignore[arg-type]
        batch_sampler=Order(len(samples), params, start=start, rank=rank, world=world, stop=stop),
        collate_fn=Collate(towers, params.seed),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
