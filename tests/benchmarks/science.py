"""Does a method help? Every arm against CLIP and its controls over paired seeds, at equal steps or time.

    make bench-science RECIPES=laclip,siglip        which is
    python tests/benchmarks/science.py --seeds 5 --steps 300 --recipes laclip,siglip

Per seed the world is drawn anew and its captions are rewritten once; then every arm trains on the same
pairs from the same initial weights, and is measured on the same held-out benchmarks: once for the same
number of steps, and, with `--equal-time`, once for as many as take as long as CLIP's, by the samples per
second of its fastest seed; an arm that is as fast as CLIP within 5 % isn't run again. `laclip-shuffled` is
the negative control: LaCLIP with rewrites of other images. The stages are the product's own; their params
are params.yaml's. Seeds start at 1: seed 0 is the demo's, on which the world and the tower were made.
Finished parts are kept in artifacts/bench/science and not run again while params and code are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pyarrow.parquet as pq
from ruamel.yaml import YAML
from tqdm import tqdm

from clipflow import cli
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest, rewrites
from clipflow.artifacts.pairs import Pairs
from clipflow.recipes import CATALOGUE

ROOT = Path(__file__).parents[2]
OUT = ROOT / "artifacts" / "bench"
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["clipflow.pretrain.stage", "clipflow.evaluate.stage"])


@dataclass(frozen=True)
class Arm:
    """What is trained, and what it is compared with."""

    recipe: str
    texts: str | int | None = None
    """`pretrain.texts`."""
    controls: tuple[str, ...] = ("clip",)
    rewrites: str = "rewrites"
    """Or `rewrites-shuffled`."""
    settings: dict[str, float] = field(default_factory=dict)
    """Keys of the recipe that differ from params.yaml."""
    architecture: str | None = None
    """If the others' won't do."""


COCA = "clipflow-tiny-coca"
ARMS = {name: Arm(name) for name in CATALOGUE.names()} | {
    "clip": Arm("clip", controls=()),
    "clip-two": Arm("clip", texts=2),
    "laclip_mt": Arm("laclip_mt", controls=("clip", "laclip")),
    "laclip-shuffled": Arm("laclip", rewrites="rewrites-shuffled"),
    "siglip-drawn": Arm("siglip", texts="drawn", controls=("siglip", "laclip")),
    "laslip": Arm("laslip", controls=("clip", "slip", "laclip")),
    "alip": Arm("alip", controls=("clip", "clip-two")),
    "dreamlip": Arm("dreamlip", controls=("clip", "laclip_mt"), settings={"num_texts": 5}),
    "coca": Arm("coca", controls=("coca-contrast",), architecture=COCA),
    "coca-contrast": Arm("coca", controls=(), settings={"captioning": 0.0}, architecture=COCA),
}
"""Every recipe, and what is none: controls and combinations. A control has all but what is in question."""
METRICS = {
    "zero-shot, canonical prompt": "zero_shot/mean/top1_canonical",
    "zero-shot, prompt ensemble": "zero_shot/mean/top1",
    "zero-shot, ensemble with synonyms": "zero_shot/mean/top1_synonyms",
    "linear probe": "linear_probe/mean/top1",
    "retrieval R@1": "retrieval/mean/recall_at_1",
}
Table = dict[str, dict[str, list[float]]]
"""By arm and metric, the values of the seeds."""


def main() -> None:
    """Run what is missing, then write the tables and science.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="paired seeds (default 5)")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="runs at once, a core each"
    )
    parser.add_argument("--steps", type=int, help="steps of every arm (default: pretrain.steps)")
    parser.add_argument("--equal-time", action="store_true", help="also at CLIP's training time")
    parser.add_argument("--architecture", help="of all arms (default: pretrain.architecture)")
    parser.add_argument("--precision", help="of all arms (default: pretrain.precision)")
    parser.add_argument(
        "--recipes",
        default="laclip,laclip_mt,laclip-shuffled",
        help="arms beside clip and their controls (default: %(default)s); " + ", ".join(ARMS),
    )
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    args = parser.parse_args()
    arms = chosen(args.recipes.split(","))
    values = YAML(typ="safe").load(args.params.read_text())
    section = values["pretrain"]
    for name in ("steps", "architecture", "precision"):
        section[name] = getattr(args, name) or section[name]
    package = (ROOT / "components" / "clipflow").rglob("*")
    code = sorted(f for f in package if f.is_file() and "__pycache__" not in f.parts)
    key = hashlib.sha256(b"".join(f.read_bytes() for f in [args.params, *code])).hexdigest()[:8]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True,
                            capture_output=True, check=True).stdout.strip()  # fmt: skip
    # what isn't looked at here
    values["evaluate"] |= {"few_shot": {"shots": [], "draws": 1}, "gallery_size": 0}
    work = OUT / "science" / f"{key}-{section['architecture']}-{section['precision']}"
    work.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "CLIPFLOW_WORKERS": "0",
        "MLFLOW_TRACKING_URI": f"sqlite:///{work / 'mlflow.db'}",
    }

    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: _prepare(work / f"seed{seed}", values, seed), seeds))
        steps = dict.fromkeys(arms, section["steps"])
        table, rates = measured(pool, work, values, seeds, steps)
        tables = {"equal steps": (table, steps)}
        if args.equal_time:
            shares = {arm: rate / rates["clip"] for arm, rate in rates.items()}
            timed = {
                arm: num if 0.95 < shares[arm] < 1.05 else round(num * shares[arm])
                for arm, num in steps.items()
            }
            tables["equal time"] = measured(pool, work, values, seeds, timed)[0], timed
    for name, (table, taken) in tables.items():
        again = [arm for arm in taken if name == "equal steps" or taken[arm] != steps[arm]]
        sys.stdout.write(f"\n{name}\n\n{shown(table, ['clip', *again], taken, rates)}\n")
    manifest.write_json(
        OUT / "science.json",
        {
            "name": "science",
            "unit": "fraction",
            "runs": {name: table for name, (table, _) in tables.items()},
            "steps": {name: steps for name, (_, steps) in tables.items()},
            "samples_per_second": rates,
            "pretrain": section,
            "command": "python tests/benchmarks/science.py " + " ".join(sys.argv[1:]),
            "commit": commit,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
    )


def chosen(names: list[str]) -> list[str]:
    """The arms of these names with CLIP and all controls, in the order of `ARMS`."""
    if unknown := set(names) - set(ARMS):
        raise SystemExit(f"--recipes: no {', '.join(unknown)}; there are {', '.join(ARMS)}")
    wanted, todo = {"clip"}, list(names)
    while todo:
        name = todo.pop()
        wanted.add(name)
        todo += [control for control in ARMS[name].controls if control not in wanted]
    return sorted(wanted, key=lambda name: (name != "clip", list(ARMS).index(name)))


def measured(
    pool: ThreadPoolExecutor,
    work: Path,
    values: dict[str, Any],
    seeds: range,
    steps: dict[str, int],
) -> tuple[Table, dict[str, float]]:
    """The metrics of every arm at every seed, and each arm's samples per second."""
    cells = [(seed, arm) for seed in seeds for arm in steps]
    runs = pool.map(
        lambda cell: _train(work / f"seed{cell[0]}", values, *cell, steps[cell[1]]), cells
    )
    table: Table = {arm: {} for arm in steps}
    rates: dict[str, list[float]] = {arm: [] for arm in steps}
    for (_, arm), (metrics, rate) in zip(
        cells, tqdm(runs, total=len(cells), desc="science", unit="run"), strict=True
    ):
        rates[arm].append(rate)
        for name, metric in METRICS.items():
            table[arm].setdefault(name, []).append(metrics[metric])
    return table, {arm: max(of) for arm, of in rates.items()}  # other work makes slower, not faster


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
    provenance = [
        [{name: value for name, value in one.items() if value is not None} for one in of]
        for of in table["provenance"].to_pylist()
    ]
    random.Random(seed).shuffle(provenance)
    by_key = dict(zip(table["key"].to_pylist(), provenance, strict=True))
    with manifest.complete_or_absent(out) as folder:
        writer = rewrites.Writer(folder)
        for name, keys, _ in Pairs(pairs).by_shard():
            writer.add_shard(name, {key: by_key[key] for key in keys})
        writer.close(shuffled_with_seed=seed)


def _train(
    folder: Path, values: dict[str, Any], seed: int, arm: str, steps: int
) -> tuple[dict[str, float], float]:
    """The metrics of one arm at one seed, and its samples per second in training."""
    run = folder / f"{arm}-{steps}"
    run.mkdir(exist_ok=True)
    its = ARMS[arm]
    section = values["pretrain"]
    warmup = round(section["warmup_steps"] * steps / section["steps"])
    changes = {
        "recipe": its.recipe,
        "texts": its.texts,
        "seed": seed,
        "steps": steps,
        "warmup_steps": warmup,
    }
    if its.architecture:
        changes["architecture"] = its.architecture
    settings = {**values["recipes"][its.recipe], **its.settings}
    params = {
        **values,
        "pretrain": {**section, **changes},
        "recipes": {**values["recipes"], its.recipe: settings},
    }
    checkpoint, report = run / "checkpoint", run / "report"
    if not checkpoint.exists():
        _clipflow(run, "pretrain", params, "--pairs", folder / "pairs", "--rewrites",
                  folder / its.rewrites, "--checkpoint", checkpoint)  # fmt: skip
    if not report.exists():
        _clipflow(run, "evaluate", params, "--checkpoint", checkpoint,
                  "--benchmarks", folder / "benchmarks", "--report", report)  # fmt: skip
    rates = pq.read_table(checkpoint / checkpoints.HISTORY)["samples_per_second"].to_pylist()
    return dict(json.loads((report / "metrics.json").read_text())), median(rates)


def _clipflow(folder: Path, stage: str, values: dict[str, Any], *flags: str | Path) -> None:
    """Run a stage on one core, its output in `<folder>/<stage>.log`."""
    file, log = folder / f"{stage}.yaml", folder / f"{stage}.log"
    with file.open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    argv = ["clipflow", stage, *map(str, flags), "--params", str(file)]
    process = FORKS.Process(target=_run, args=(argv, log))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{stage} failed, see {log}:\n{log.read_text()[-2000:]}")


def _run(argv: list[str], log: Path) -> None:
    """Be a command, in a process that has the imports already."""
    stream = log.open("w")
    for fd in (1, 2):
        os.dup2(stream.fileno(), fd)
    os.chdir(log.parent)
    os.environ["CLIPFLOW_SCRATCH"] = str(log.with_name("scratch"))
    sys.argv = argv
    cli.main()


def shown(table: Table, arms: list[str], steps: dict[str, int], rates: dict[str, float]) -> str:
    """Means in %; in brackets the paired gain over the first control, its spread, and in how many seeds.

    What an arm gains over its further controls follows in rows of their own.
    """
    lines = [
        "| | steps | samples/s | " + " | ".join(METRICS) + " |",
        "|---" * (len(METRICS) + 3) + "|",
    ]
    for arm in dict.fromkeys(arms):
        metrics = table[arm]
        means = {name: f"{100 * mean(of):.1f}" for name, of in metrics.items()}
        first, *others = ARMS[arm].controls or (None,)
        cells = [
            f"{means[name]} ({_gain(table, arm, first, name)})" if first
            else f"{means[name]} ± {_spread(of):.1f}"
            for name, of in metrics.items()
        ]  # fmt: skip
        lines.append(f"| {arm} | {steps[arm]} | {rates[arm]:.0f} | {' | '.join(cells)} |")
        for control in others:
            cells = [_gain(table, arm, control, name) for name in metrics]
            lines.append(f"| ... over {control} | | | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gain(table: Table, arm: str, control: str, metric: str) -> str:
    pairs = zip(table[arm][metric], table[control][metric], strict=True)
    gains = [a - b for a, b in pairs]
    return (
        f"{100 * mean(gains):+.1f} ± {_spread(gains):.1f}, {sum(g > 0 for g in gains)}/{len(gains)}"
    )


def _spread(values: list[float]) -> float:
    """Standard deviation in %."""
    return 100 * stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
