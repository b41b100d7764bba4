"""Images per second of one loader process: clipflow against open_clip's webdataset loader.

    make bench-loader        which is        python tests/benchmarks/loader.py

The same JPEGs and captions, decoded, cropped at random, resized to 224 px, tokenised and collated in one
process on one thread; both sides end with a normalised float batch, though clipflow's trainer normalises
on its device.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import photos
import torch
from peers import peers

from clipflow import params as params_file
from clipflow.artifacts.pairs import Pairs
from clipflow.model.towers import Towers
from clipflow.pretrain.loader import loader
from clipflow.pretrain.samples import Samples, join

ARCHITECTURE = "ViT-B-32"
SIZES_PX = (340, 256), (640, 427)


def main() -> None:
    """Measure both sides at each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.append(str(peers()))
    comparisons = []
    for size in SIZES_PX:
        folder = harness.OUT / "photos" / f"{size[0]}x{size[1]}-{args.images}"
        pairs = photos.make_shards(folder / "pairs", args.images, size)
        rewrites = photos.make_rewrites(folder / "rewrites", pairs)
        sides = clipflow(pairs, rewrites, args), open_clip(pairs, args)
        ours, theirs = harness.alternate(
            lambda: rate(sides[0]),  # noqa: B023
            lambda: rate(sides[1]),  # noqa: B023
            args.runs,
        )
        name = f"JPEGs of {size[0]} x {size[1]} px"
        comparisons.append(
            harness.Comparison(name, ours, theirs, "open_clip 3.3, webdataset", "images/s", "more")
        )
    harness.report("loader", comparisons)


def rate(batches: Iterable[Any]) -> float:
    """Images per second, the first batch left out."""
    num, start = 0, 0.0
    for batch in batches:
        images = batch[0]
        if not start:
            start = time.perf_counter()
            continue
        if images.dtype == torch.uint8:
            images = TOWERS.normalise(images)
        num += len(images)
    return num / (time.perf_counter() - start)


TOWERS = Towers(ARCHITECTURE, 0.07)


def clipflow(pairs: Path, rewrites: Path, args: argparse.Namespace) -> Iterable[Any]:
    """Our batches, of one epoch."""
    file = pairs.parent / "samples.arrow"
    join(Pairs(pairs), rewrites, file)
    values = params_file.read(harness.ROOT / "params.yaml")
    values["pretrain"] |= {"recipe": "clip", "batch_size": args.batch_size,
                           "steps": args.images // args.batch_size}  # fmt: skip
    params = params_file.parse(params_file.select(values, "pretrain"), "pretrain")
    batches = loader(Samples(Pairs(pairs), file), params, TOWERS, start=0, rank=0, world=1)
    assert batches.num_workers == 0, "set CLIPFLOW_WORKERS=0"
    return batches


def open_clip(pairs: Path, args: argparse.Namespace) -> Iterable[Any]:
    """open_clip's batches, of one epoch."""
    import open_clip as package
    from open_clip_train.data import get_wds_dataset

    shards = sorted(pairs.glob("*.tar"))
    config = SimpleNamespace(
        train_data=str(pairs / f"{{{shards[0].stem}..{shards[-1].stem}}}.tar"),
        train_data_upsampling_factors=None, dataset_resampled=False, train_num_samples=args.images,
        seed=0, batch_size=args.batch_size, workers=0, world_size=1, dataset_type="webdataset",
    )  # fmt: skip
    transform = package.image_transform(
        224, is_train=True, aug_cfg=package.AugmentationCfg(scale=(0.5, 1.0))
    )
    tokenizer = package.get_tokenizer(ARCHITECTURE)
    data = get_wds_dataset(config, transform, is_train=True, tokenizer=tokenizer)
    assert data.dataloader.num_batches == math.ceil(args.images / args.batch_size)
    return data.dataloader


if __name__ == "__main__":
    main()
