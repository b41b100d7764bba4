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

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ParamsError
from clipflow.model.towers import Towers
from clipflow.pretrain.params import Params


@dataclass(frozen=True)
class Draw:
    """A pair's row, and the epoch that seeds its crop and its caption."""

    row: int
    epoch: int


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
            yield [Draw(int(row), epoch) for row in rows[first : first + size][self.local]]


class Views(Dataset[tuple[Tensor, list[str]]]):
    """What one pair becomes: a random crop of its image, and the texts that the recipe picks."""

    def __init__(self, pairs: Pairs, rewrites: pa.ListArray, params: Params, size_px: int) -> None:
        self.pairs, self.rewrites, self.params = pairs, rewrites, params
        self.crop = v2.Compose(
            [
                v2.RandomResizedCrop(
                    size_px,
                    scale=(params.crop_scale_min, 1.0),
                    interpolation=v2.InterpolationMode.BICUBIC,
                ),
                v2.PILToTensor(),
            ]
        )

    def __getitem__(self, draw: Draw) -> tuple[Tensor, list[str]]:
        """A uint8 image [3, size, size] and its texts."""
        rng = random.Random(f"{self.params.seed}/{draw.epoch}/{draw.row}")
        texts = self.params.recipe.texts(
            self.pairs.caption(draw.row), self.rewrites[draw.row].as_py(), rng
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.getrandbits(63))
            image = self.crop(Image.open(io.BytesIO(self.pairs.image(draw.row))))
        return image, texts


class Batch(NamedTuple):
    """What a step computes on."""

    images: Float[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch texts length"]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*(value.to(device, non_blocking=True) for value in self))


class Collate:
    """Stacks views: images normalised, texts tokenised and cut to the longest of the batch."""

    def __init__(self, towers: Towers) -> None:
        self.tokenize, self.config = towers.tokenize, towers.preprocess_cfg

    def __call__(self, views: list[tuple[Tensor, list[str]]]) -> Batch:
        """One batch."""
        images = torch.stack([image for image, _ in views]).float().div_(255)
        images = v2.functional.normalize(
            images, self.config["mean"], self.config["std"], inplace=True
        )
        texts = [text for _, texts in views for text in texts]
        tokens = self.tokenize(texts)
        return Batch(images, tokens.view(len(views), -1, tokens.shape[1]))


def num_workers() -> int:
    """Loader processes: CLIPFLOW_WORKERS, else one less than the cores, at most 8."""
    return int(os.environ.get("CLIPFLOW_WORKERS", min(8, (os.cpu_count() or 1) - 1)))


def loader(
    pairs: Pairs,
    rewrites: pa.ListArray,
    params: Params,
    towers: Towers,
    *,
    start: int,
    rank: int,
    world: int,
) -> DataLoader[Batch]:
    """Batches of this process from step `start` to the end."""
    workers = num_workers()
    return DataLoader(
        Views(pairs, rewrites, params, towers.image_size_px),  # type: ignore[arg-type]
        batch_sampler=Order(len(pairs), params, start=start, rank=rank, world=world),
        collate_fn=Collate(towers),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
