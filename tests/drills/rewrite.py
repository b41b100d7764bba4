"""Rewriting through a bad server, killed with -9 at many moments, ends as if nothing had happened.

    make drill-rewrite    which is    PYTHONPATH=tests python -m drills.rewrite --kills 20 --times 20

A real HTTP server on loopback fails 6 % of the requests: status 500 and 429, silence, bodies cut off,
bodies that are no JSON, closed connections. One process imports everything and forks a child per attempt,
which runs the real stage and is killed: by itself at the k-th pass through one of `PLACES`, or from outside
at some time. The last attempt is left alone. Afterwards the artifact must be that of a run through a good
server that was never killed, byte by byte, with one row per key, and the server must not have answered
anything twice but the requests in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.harness import commit
from clipflow import params, track
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.rewrite import stage
from clipflow.rewrite.cache import Cache
from clipflow.rewrite.desk import Desk
from clipflow.rewrite.params import Params
from drills.ending import end
from drills.killing import ANY_TIME, Place, forked
from fakes.artifacts import ROOT, make_pairs

OUT = ROOT / "artifacts" / "drills" / "rewrite.json"
NUM_CAPTIONS, SHARD, NUM_REWRITES = 600, 50, 2
CONCURRENCY = 16
LONGEST_ATTEMPT_S = 1.5
FAULTS = {
    "error": 0.02,
    "busy": 0.01,
    "stall": 0.005,
    "truncate": 0.01,
    "malform": 0.01,
    "drop": 0.005,
}


def of_shard(path: Path, *_: Any) -> bool:
    return path.suffix == ".partial" and path.parent.suffix == ".partial"


PLACES: dict[str, Place] = {
    "answers: arrived": Place(Cache, "store", passes=20),
    "answers: remembered": Place(Cache, "store", "after", passes=20),
    "shard: before it is written": Place(artifact.Writer, "add_shard"),
    "shard: before the rename": Place(Path, "replace", only=of_shard),
    "shard: after the rename": Place(Path, "replace", "after", only=of_shard),
    "shard: written": Place(artifact.Writer, "add_shard", "after"),
    "shard: opened": Place(Desk, "_opened", "after", passes=2),
}
"""Where a run passes again and again."""
LAST: dict[str, Place] = {
    "end: before the manifest": Place(artifact.Writer, "close"),
    "end: after the manifest": Place(artifact.Writer, "close", "after"),
    "end: in place": Place(stage, "summary"),
}
"""Where a run passes after its last answer."""
AHEAD = Place(Cache, "store", passes=40)
"""Where an attempt that is killed at any time ends at the latest, so that others have something to do."""


@contextmanager
def serving(latency_s: float, **faults: float) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "fakes.llm_server",
        f"--latency-s={latency_s}",
        "--stall-s=600",
    ]
    command += [f"--{kind}={share}" for kind, share in faults.items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT / "tests") as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def prepare(folder: Path) -> tuple[Params, Path]:
    """Tiny params and captions of which some are alike; cache and MLflow are in this folder from now on."""
    os.chdir(folder)
    os.environ |= {
        "CLIPFLOW_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    captions = {f"k{n:04d}": f"a photo of thing {n * 7 % 500}" for n in range(NUM_CAPTIONS)}
    pairs = make_pairs(folder / "pairs", captions, samples_per_shard=SHARD)
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["rewrite"] |= {"generator": "server", "num_rewrites": NUM_REWRITES}
    values["generators"]["server"] |= {
        "concurrency": CONCURRENCY,
        "timeout_s": 1.0,
        "max_retries": 20,
    }
    track.connect()
    return params.parse(params.select(values, "rewrite"), "rewrite"), pairs


def plan(num_kills: int, rng: random.Random) -> list[str]:
    """Places to be killed at in turn, every place at least once and the last ones at the end."""
    between = [*PLACES, ANY_TIME, ANY_TIME, ANY_TIME]
    num_between = num_kills - len(LAST)
    if num_between < len(between):
        raise SystemExit(f"--kills: at least {len(between) + len(LAST)}, one per place")
    chosen = [between[n % len(between)] for n in range(num_between)]
    rng.shuffle(chosen)
    return [*chosen, *LAST]


def drill(folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Rewrite once in peace and once killed again and again; what the second lost against the first."""
    rng = random.Random(seed)
    config, pairs = prepare(folder)
    log_file = folder / "log.txt"

    def rewrite(name: str, arm: Callable[[], None] = lambda: None) -> Callable[[], None]:
        def run() -> None:
            arm()
            os.environ["CLIPFLOW_CACHE"] = str(folder / f"cache-{name}")
            stage.run(config, pairs=pairs, rewrites=folder / name)

        return run

    def must(status: int, expected: set[int], what: str) -> None:
        if status not in expected:
            raise SystemExit(f"{what}: exit status {status}\n{log_file.read_text()[-3000:]}")

    with serving(0.0) as url:
        os.environ["OPENAI_BASE_URL"] = url
        must(forked("rewrite", rewrite("straight"), log_file), {0}, "the run in peace")
    places = plan(num_kills, rng)
    with serving(0.005, **FAULTS) as url:
        os.environ["OPENAI_BASE_URL"] = url
        for where in tqdm(places, desc="kills", leave=False):
            place = {**PLACES, **LAST}.get(where)
            at = rng.randint(1, place.passes) if place else 0
            status = forked(
                "rewrite",
                rewrite("killed", lambda p=place or AHEAD, at=at or AHEAD.passes: p.arm(at)),
                log_file,
                kill_after_s=None if place else rng.uniform(0, LONGEST_ATTEMPT_S),
            )
            # One that found its last shard done has nowhere to be killed between.
            must(status, {-signal.SIGKILL} if where in LAST else {-signal.SIGKILL, 0}, where)
        must(forked("rewrite", rewrite("killed"), log_file), {0}, "the last attempt")
        with urlopen(f"{url}/stats") as answer:
            stats = json.load(answer)
    found = lost(folder / "straight", folder / "killed", pairs)
    num_different = NUM_REWRITES * len(set(Pairs(pairs).captions))
    # Each kill may lose what was in flight, the first contact, and what arrived while it died.
    most = num_different + len(places) * (2 * CONCURRENCY + 1)
    if stats["num_answered"] > most:
        found.append(f"{stats['num_answered']} answers paid for, at most {most} expected")
    return {
        "faults": len(places),
        "lost": len(found),
        "what": found,
        "answers": num_different,
        "answers_paid_for": stats["num_answered"],
        "requests": stats["num_requests"],
        "by_place": dict(sorted(Counter(places).items())),
    }


def lost(straight: Path, killed: Path, pairs: Path) -> list[str]:
    """What an artifact that was killed for lacks, or has otherwise or twice."""
    names = {file.name for folder in (straight, killed) for file in folder.iterdir()}
    found = [
        name
        for name in sorted(names)
        if not (straight / name).is_file()
        or not (killed / name).is_file()
        or (straight / name).read_bytes() != (killed / name).read_bytes()
    ]
    keys = [
        k for f in sorted(killed.glob("*.parquet")) for k in pq.read_table(f)["key"].to_pylist()
    ]
    if keys != Pairs(pairs).keys:
        found.append("keys")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--times", type=int, default=20, help="how often, each with another seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    out = args.out.absolute()
    results = []
    for number in tqdm(range(args.times), desc="times", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            results.append(drill(Path(folder), args.kills, args.seed + number))
            os.chdir(out.root)
    result = {
        "drill": "rewrite",
        "faults": sum(one["faults"] for one in results),
        "lost": sum(one["lost"] for one in results),
        "commit": commit(),
        "command": f"PYTHONPATH=tests python -m drills.rewrite --kills {args.kills}"
        f" --times {args.times} --seed {args.seed}",
        "times": results,
    }
    end(result, out, not_shown="times")


if __name__ == "__main__":
    main()
