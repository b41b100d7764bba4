"""Seconds of a step on this CPU as `clipflow plan` estimates them, against steps that are taken.

    make bench-plan       which is        python tests/benchmarks/plan.py

The estimate comes from smaller batches than the step's, so it says something only of batches above 32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import harness
from steps import timed_step

from clipflow import params as params_file
from clipflow.plan import plan
from clipflow.pretrain.params import Params

TOKENS = 16
MODELS = {"clipflow-tiny": 128, "clipflow-tiny-vit": 128, "ViT-S-32-alt": 64}
"""And their batch sizes."""


def main() -> None:
    """Measure each architecture and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    values = params_file.read(harness.ROOT / "params.yaml")
    comparisons = []
    for model, batch_size in MODELS.items():
        values["pretrain"] |= {"recipe": "clip", "architecture": model, "batch_size": batch_size}
        params = params_file.parse(params_file.select(values, "pretrain"), "pretrain")
        estimated, taken = harness.alternate(estimate(params), shortest(params), args.runs)
        name = f"{model}, batch {batch_size}"
        comparisons.append(
            harness.Comparison(name, estimated, taken, "steps taken", "s a step", "less")
        )
    harness.report("plan", comparisons)


def estimate(params: Params) -> Callable[[], float]:
    """What `clipflow plan` says."""
    return lambda: plan(params, devices=1, device_type="cpu", tokens_per_text=TOKENS).step_s


def shortest(params: Params) -> Callable[[], float]:
    """Of four steps the shortest, as the plan does it."""
    step = timed_step(params, params.batch_size, TOKENS)
    return lambda: min(step() for _ in range(4))


if __name__ == "__main__":
    main()
