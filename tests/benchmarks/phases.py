"""Step time of a phase on fewer tokens, against the phase on all of them, without the loader.

    make bench-phases       which is        python tests/benchmarks/phases.py

Both take the same step of clip's objective, in alternation: `flip`'s first phase leaves out half of the
patches, `clipa`'s has images of half the side and texts of 16 tokens.
"""

from __future__ import annotations

import argparse

import harness
import torch
from steps import timed_step

from clipflow import params as params_file


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
        reduced, full = (
            timed_step(
                params, args.batch_size, min(args.tokens, phase.text_tokens or args.tokens), phase
            )
            for phase in params.phases
        )
        reduced()
        full()
        name = f"{recipe}, {args.model}, batch {args.batch_size}"
        ours, theirs = harness.alternate(reduced, full, args.runs)
        comparisons.append(
            harness.Comparison(name, ours, theirs, "its full phase", "s a step", "less")
        )
    harness.report("phases", comparisons)


if __name__ == "__main__":
    main()
