"""Do language rewrites help? CLIP, LaCLIP, LaCLIP-MT and shuffled rewrites over paired seeds.

    make bench-science        which is        python tests/benchmarks/science.py --seeds 5 --steps 300

Per seed the world is drawn anew and its captions are rewritten once; then every arm trains on the same
pairs for the same number of steps from the same initial weights, and is measured on the same held-out
benchmarks. `laclip-shuffled` is the negative control: LaCLIP with the rewrites of other images. The
stages are the product's own; their params are params.yaml's. Seeds start at 1: seed 0 is the demo's, on
which the world and the tower were made. Finished parts are kept in artifacts/bench/science and not run
again while params and code are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from clipflow.artifacts import manifest, rewrites
from clipflow.artifacts.pairs import Pairs

ROOT = Path(__file__).parents[2]
OUT = ROOT / "artifacts" / "bench"
ARMS = {"clip": "clip", "laclip": "laclip", "laclip_mt": "laclip_mt", "laclip-shuffled": "laclip"}
METRICS = {
    "zero-shot, canonical prompt": "zero_shot/mean/top1_canonical",
    "zero-shot, prompt ensemble": "zero_shot/mean/top1",
    "zero-shot, ensemble with synonyms": "zero_shot/mean/top1_synonyms",
    "linear probe": "linear_probe/mean/top1",
    "retrieval R@1": "retrieval/mean/recall_at_1",
}


def main() -> None:
    """Run what is missing, then write the table and science.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="paired seeds (default 5)")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="runs at once, a core each"
    )
    parser.add_argument("--steps", type=int, help="steps of every arm (default: pretrain.steps)")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    args = parser.parse_args()
    values = YAML(typ="safe").load(args.params.read_text())
    if args.steps:
        values["pretrain"]["steps"] = args.steps
    package = (ROOT / "components" / "clipflow").rglob("*")
    code = sorted(f for f in package if f.is_file() and "__pycache__" not in f.parts)
    key = hashlib.sha256(b"".join(f.read_bytes() for f in [args.params, *code])).hexdigest()[:8]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True,
                            capture_output=True, check=True).stdout.strip()  # fmt: skip
    work = OUT / "science" / f"{key}-{values['pretrain']['steps']}"
    work.mkdir(parents=True, exist_ok=True)

    seeds = range(args.first_seed, args.first_seed + args.seeds)
    cells = [(seed, arm) for seed in seeds for arm in ARMS]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: _prepare(work / f"seed{seed}", values, seed), seeds))
        runs = pool.map(lambda cell: _train(work / f"seed{cell[0]}", values, *cell), cells)
        results = list(tqdm(runs, total=len(cells), desc="science", unit="run"))
    table: dict[str, dict[str, list[float]]] = {arm: {} for arm in ARMS}
    for (_, arm), metrics in zip(cells, results, strict=True):
        for name, metric in METRICS.items():
            table[arm].setdefault(name, []).append(metrics[metric])
    _print(table)
    manifest.write_json(
        OUT / "science.json",
        {
            "name": "science",
            "unit": "fraction",
            "runs": table,
            "pretrain": values["pretrain"],
            "command": "python tests/benchmarks/science.py " + " ".join(sys.argv[1:]),
            "commit": commit,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
    )


def _prepare(folder: Path, values: dict[str, Any], seed: int) -> None:
    """The seed's pairs, benchmarks, rewrites, and the rewrites shuffled between images."""
    folder.mkdir(exist_ok=True)
    seeded = {
        **values,
        "ingest": {**values["ingest"], "seed": seed},
        "rewrite": {**values["rewrite"], "seed": seed},
    }
    pairs, own, shuffled = folder / "pairs", folder / "rewrites", folder / "rewrites-shuffled"
    if not pairs.exists():
        _clipflow(folder, "ingest", seeded, "--pairs", pairs, "--benchmarks", folder / "benchmarks")
    if not own.exists():
        _clipflow(folder, "rewrite", seeded, "--pairs", pairs, "--rewrites", own)
    if not shuffled.exists():
        shuffle(pairs, own, shuffled, seed)


def shuffle(pairs: Path, source: Path, out: Path, seed: int) -> None:
    """Give each key the rewrites of another: as diverse as before, but of other images."""
    table = rewrites.read(source)
    provenance = table["provenance"].to_pylist()
    random.Random(seed).shuffle(provenance)
    by_key = dict(zip(table["key"].to_pylist(), provenance, strict=True))
    with manifest.complete_or_absent(out) as folder:
        writer = rewrites.Writer(folder)
        for name, keys, _ in Pairs(pairs).by_shard():
            writer.add_shard(name, {key: by_key[key] for key in keys})
        writer.close(shuffled_with_seed=seed)


def _train(folder: Path, values: dict[str, Any], seed: int, arm: str) -> dict[str, float]:
    """The metrics of one arm at one seed."""
    run, report = folder / arm, folder / arm / "report"
    run.mkdir(exist_ok=True)
    params = {**values, "pretrain": {**values["pretrain"], "recipe": ARMS[arm], "seed": seed}}
    texts = folder / ("rewrites-shuffled" if arm == "laclip-shuffled" else "rewrites")
    checkpoint = run / "checkpoint"
    if not checkpoint.exists():
        _clipflow(run, "pretrain", params, "--pairs", folder / "pairs", "--rewrites", texts,
                  "--checkpoint", checkpoint)  # fmt: skip
    if not report.exists():
        _clipflow(run, "evaluate", params, "--checkpoint", checkpoint,
                  "--benchmarks", folder / "benchmarks", "--report", report)  # fmt: skip
    return dict(json.loads((report / "metrics.json").read_text()))


def _clipflow(folder: Path, stage: str, values: dict[str, Any], *flags: str | Path) -> None:
    """Run a stage on one core, its output in `<folder>/<stage>.log`."""
    file = folder / f"{stage}.yaml"
    with file.open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    log = folder / f"{stage}.log"
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CLIPFLOW_WORKERS": "0",
        "CLIPFLOW_SCRATCH": str(folder / "scratch"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    command = [sys.executable, "-m", "clipflow", stage, *map(str, flags), "--params", str(file)]
    with log.open("w") as stream:
        done = subprocess.run(
            command, stderr=stream, stdout=stream, env=env, cwd=folder, check=False
        )
    if done.returncode:
        raise SystemExit(f"{stage} failed, see {log}:\n{log.read_text()[-2000:]}")


def _print(table: dict[str, dict[str, list[float]]]) -> None:
    """Mean and standard deviation in %, and the paired gain over CLIP."""
    lines = ["| | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for arm, metrics in table.items():
        cells = []
        for name, values in metrics.items():
            spread = stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{100 * mean(values):.1f} +- {100 * spread:.1f}")
            if arm != "clip":
                gains = [a - b for a, b in zip(values, table["clip"][name], strict=True)]
                won = sum(gain > 0 for gain in gains)
                cells[-1] += f" ({100 * mean(gains):+.1f}, {won}/{len(gains)})"
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
