"""What drawing one of five texts costs a step: LaCLIP's step against CLIP's on the same images.

    make bench-text-overhead        which is        python tests/benchmarks/text_overhead.py

Both steps alternate in one process: the next batch (images decoded, texts drawn and tokenised in this very
process, so that nothing hides behind workers), forward, backward, AdamW. Rewrites are as long as captions;
longer ones cost the text tower what they cost in any trainer. Ratio: CLIP's time over LaCLIP's, medians.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import harness
import photos
import torch

from clipflow import params as params_file
from clipflow.artifacts.pairs import Pairs
from clipflow.pretrain import stage
from clipflow.pretrain.loader import loader
from clipflow.pretrain.optimiser import adamw
from clipflow.pretrain.samples import Samples, join
from clipflow.recipes import CATALOGUE

MODEL = "ViT-S-32-alt"
FIRST_STEPS = 2


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    os.environ["CLIPFLOW_WORKERS"] = "0"
    data = harness.OUT / "photos-text-overhead"
    pairs = photos.make_shards(data / "pairs", 10 * args.batch_size, (340, 256))
    rewrites = photos.make_rewrites(data / "rewrites", pairs)
    file = data / "samples.arrow"
    join(Pairs(pairs), rewrites, file)
    ours, peer = (steps(recipe, Samples(Pairs(pairs), file), args) for recipe in ("laclip", "clip"))
    for _ in range(FIRST_STEPS):
        ours(), peer()
    laclip, clip = harness.alternate(ours, peer, args.steps)
    name = f"{MODEL}, batch {args.batch_size}, {torch.get_num_threads()} threads"
    harness.report(
        "text-overhead", [harness.Comparison(name, laclip, clip, "CLIP", "s/step", "less")]
    )


def steps(recipe: str, samples: Samples, args: argparse.Namespace) -> Callable[[], float]:
    """Takes one step of a recipe, loader included, and returns its seconds."""
    assert recipe in CATALOGUE.names()
    values = params_file.read(Path(harness.ROOT / "params.yaml"))
    num = 1 + FIRST_STEPS + args.steps
    values["pretrain"] |= {"recipe": recipe, "architecture": MODEL, "steps": num,
                           "warmup_steps": 1, "batch_size": args.batch_size}  # fmt: skip
    params = params_file.parse(params_file.select(values, "pretrain"), "pretrain")
    torch.manual_seed(0)
    towers = stage.build(params)
    objective = params.recipe.objective(towers)
    optimiser = adamw(objective, towers, params)
    batches = iter(loader(samples, params, towers, start=0, rank=0, world=1))

    def step() -> float:
        start = time.perf_counter()
        objective(next(batches))["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - start

    return step


if __name__ == "__main__":
    main()
