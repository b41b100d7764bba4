"""Training throughput, loader included: clipflow against open_clip's own trainer.

    make bench-train        which is        python tests/benchmarks/train.py

Both train the same architecture from random weights on the same JPEGs and captions, in the same batch size
and precision, with the same number of threads and loader processes, in alternation. Throughput is samples
per second of wall time from the end of the second step to the end of the last. LaCLIP's own trainer needs
CUDA and its repository, so it is not among the peers.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import harness
import photos
from peers import peers
from ruamel.yaml import YAML

SIZE_PX = (340, 256)
FIRST_STEPS = 2
"""Steps before the clock starts: allocators and loaders warm up."""


def main() -> None:
    """Measure each model and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-S-32-alt"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "amp_bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    data = harness.OUT / "photos"
    pairs = photos.make_shards(data / "pairs", args.batch_size * (args.steps + 1), SIZE_PX)
    rewrites = photos.make_rewrites(data / "rewrites", pairs)
    comparisons = []
    for model in args.models:
        ours, theirs = harness.alternate(
            lambda: clipflow(model, pairs, rewrites, args),  # noqa: B023
            lambda: open_clip(model, pairs, args),  # noqa: B023
            args.runs,
        )
        name = f"{model}, batch {args.batch_size}, {args.precision}, {args.device}"
        comparisons.append(
            harness.Comparison(name, ours, theirs, "open_clip_train 3.3", "samples/s", "more")
        )
    harness.report("train", comparisons)


def clipflow(model: str, pairs: Path, rewrites: Path, args: argparse.Namespace) -> float:
    """Samples per second of `clipflow pretrain`, as its history has it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        values = YAML(typ="safe").load((harness.ROOT / "params.yaml").read_text())
        values["pretrain"] |= {
            "architecture": model, "batch_size": args.batch_size, "steps": args.steps,
            "log_every": FIRST_STEPS, "warmup_steps": 1, "checkpoint_every": 10**6,
            "checkpoint_minutes": 1e6,
            "precision": {"fp32": "float32", "amp_bf16": "bfloat16"}[args.precision],
        }  # fmt: skip
        with (folder / "params.yaml").open("w") as stream:
            YAML(typ="safe").dump(values, stream)
        env = environment(args) | {
            "CLIPFLOW_WORKERS": str(args.workers),
            "CLIPFLOW_SCRATCH": str(folder / "scratch"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        }
        run([sys.executable, "-m", "clipflow", "pretrain", "--pairs", str(pairs), "--rewrites",
             str(rewrites), "--checkpoint", str(folder / "c"), "--params", str(folder / "params.yaml")],
            env)  # fmt: skip
        import pyarrow.parquet as pq

        history = pq.read_table(folder / "c" / "history.parquet").to_pylist()
        seconds = sum(
            FIRST_STEPS * args.batch_size / row["samples_per_second"] for row in history[1:]
        )
        return float(args.batch_size * (args.steps - FIRST_STEPS) / seconds)


def open_clip(model: str, pairs: Path, args: argparse.Namespace) -> float:
    """Samples per second of `open_clip_train.main`, by the times of its log lines."""
    shards = sorted(pairs.glob("*.tar"))
    urls = str(pairs / f"{{{shards[0].stem}..{shards[-1].stem}}}.tar")
    with tempfile.TemporaryDirectory() as folder:
        output = run(
            [sys.executable, "-m", "open_clip_train.main", "--dataset-type", "webdataset",
             "--train-data", urls, "--train-num-samples", str(args.batch_size * args.steps),
             "--batch-size", str(args.batch_size), "--epochs", "1", "--warmup", "1", "--workers",
             str(args.workers), "--precision", args.precision, "--device", args.device, "--model", model,
             "--aug-cfg", "scale=(0.5, 1.0)", "--save-frequency", "0", "--log-every-n-steps", "1",
             "--logs", folder],
            environment(args) | {"PYTHONPATH": str(peers())},
        )  # fmt: skip
    times = [
        datetime.strptime(found[1], "%Y-%m-%d,%H:%M:%S")
        for found in re.finditer(r"^(\S+) \| INFO \| Train Epoch", output, re.MULTILINE)
    ]
    rates = [float(rate) for rate in re.findall(r"Batch \(t\): ([\d.]+)", output)]
    assert len(times) == len(rates) == args.steps, output[-2000:]
    return float(args.batch_size * (args.steps - FIRST_STEPS) / sum(rates[FIRST_STEPS:]))


def environment(args: argparse.Namespace) -> dict[str, str]:
    """The same threads for both sides."""
    return os.environ | {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}


def run(command: list[str], env: dict[str, str]) -> str:
    """A command's output. It stops the benchmark if the command fails."""
    done = subprocess.run(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
