"""Step time of a phase on fewer tokens, against the phase on all of them, without the loader.

    make bench-phases       which is        python tests/benchmarks/phases.py

Both take the same step of clip's objective, in alternation: `flip`'s first phase leaves out half of the
patches, `clipa`'s has images of half the side and texts of 16 tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import harness
import torch

from clipflow import params as params_file
from clipflow.model.batch import Batch
from clipflow.model.texts import Texts
from clipflow.pretrain import phases, stage
from clipflow.pretrain.optimiser import adamw
from clipflow.pretrain.params import Params
from clipflow.recipes import Phase


def main() -> None:
    """Measure each recipe's phases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="of each text")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    values = params_file.read(harness.ROOT / "params.yaml")
    comparisons = []
    for recipe in ("flip", "clipa"):
        values["pretrain"] |= {"recipe": recipe, "architecture": args.model}
        params = params_file.parse(params_file.select(values, "pretrain"), "pretrain")
        reduced, full = (step(params, phase, args) for phase in params.phases)
        reduced()
        full()
        name = f"{recipe}, {args.model}, batch {args.batch_size}"
        ours, theirs = harness.alternate(reduced, full, args.runs)
        comparisons.append(
            harness.Comparison(name, ours, theirs, "its full phase", "s a step", "less")
        )
    harness.report("phases", comparisons)


def step(params: Params, phase: Phase, args: argparse.Namespace) -> Callable[[], float]:
    """Takes a step of a phase and says how many seconds it took."""
    torch.manual_seed(0)
    towers = stage.build(params).train()
    objective = params.recipe.objective(towers)
    optimiser = adamw(objective, towers, params)
    patch_px = towers.patch_size_px
    assert patch_px
    side = phases.side_px(phase, towers.image_size_px, patch_px)
    there, kept = phases.num_patches(phase, towers.image_size_px, patch_px)
    num, length = args.batch_size, min(args.tokens, phase.text_tokens or args.tokens)
    images = torch.randint(256, (num, side, side, 3), dtype=torch.uint8)
    tokens = torch.randint(1, 1000, (num, length))
    texts = Texts((tokens,), torch.arange(num)[:, None], tokens.numel())
    patches = torch.rand(num, there).argsort(1)[:, :kept] if kept < there else None

    def run() -> float:
        start = time.perf_counter()
        objective(Batch(images, texts, patches=patches))["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
