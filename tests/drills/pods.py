"""Tasks of a pipeline whose pods are killed with -9 and come again end as if nothing had happened.

    make drill-pods    which is    PYTHONPATH=tests python -m drills.pods --times 4

The five stages run twice as Kubeflow's tasks do, each try a process with empty output folders: once in
peace; once with every task killed, together with the processes that it started, at some times and at the
places below, and tried again. Afterwards every artifact must be that of the run in peace, byte by byte,
rewriting and training must have gone on from where they were, and MLflow must hold one version and each
metric step once.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.harness import commit
from clipflow import objects, store
from clipflow.artifacts import rewrites
from clipflow.register import logged_model
from clipflow.register import stage as register
from drills.ending import end
from drills.killing import ANY_TIME, Place, die
from drills.tasks import PARTS, Pipeline, lost
from fakes import s3
from fakes.artifacts import ROOT

OUT = ROOT / "artifacts" / "drills" / "pods.json"
BUCKET = "clipflow"


@dataclass(frozen=True)
class Saved:
    """Training has saved a state of so many steps or more; it goes on in processes of its own."""

    scratch: Path
    steps: int

    def arm(self, at: int) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not any(
            int(state.name.split("-")[1]) >= self.steps
            for state in self.scratch.glob("*/step-*.pt")
        ):
            time.sleep(0.02)
        die()


def places(task: str, scratch: Path) -> dict[str, Place | Saved]:
    """Where a task is killed, beside any time."""
    publishing: dict[str, Place | Saved] = {
        "made, not published": Place(store, "publish"),
        "published but the manifest": Place(objects.Objects, "delete", "after"),
        "published": Place(store, "publish", "after"),
        "known on this machine": Place(store, "_keep", "after"),
    }
    match task.split("-")[0]:
        case "ingest":
            return {}
        case "rewrite":
            return {"a shard written": Place(rewrites.Writer, "add_shard", "after", passes=6)}
        case "merge" if task == "merge-rewrites":
            return publishing
        case "pretrain":
            return {"a state saved": Saved(scratch, 4)} | publishing
        case "register":
            return {
                "model begun": Place(logged_model, "_save"),
                "model logged": Place(logged_model, "log", "after"),
                "version made": Place(register, "_settle"),
                "aliases settled": Place(register, "_settle", "after"),
            }
        case _:
            return {}


def drill(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """Run in peace and with killed pods; what the second lost against the first."""
    rng = random.Random(seed)
    kills: Counter[str] = Counter()
    with s3.serve(seed) as objects:
        objects.make_bucket(BUCKET)
        peace, disturbed = (
            Pipeline(folder / name, objects.environ | {"CLIPFLOW_STORE": f"s3://{BUCKET}/{name}"})
            for name in ("peace", "disturbed")
        )
        for task in tqdm(peace.tasks(), desc="in peace", leave=False):
            peace.must(task)
        for task in tqdm(disturbed.tasks(), desc="with kills", leave=False):
            for name, place in places(task, disturbed.folder / "scratch").items():
                at = rng.randint(1, getattr(place, "passes", 1))
                status = disturbed.attempt(task, lambda p=place, at=at: p.arm(at))
                if status != -signal.SIGKILL:
                    raise SystemExit(
                        f"{task}, {name}: exit status {status}\n{disturbed.log.read_text()[-3000:]}"
                    )
                kills[f"{task}: {name}"] += 1
            for _ in range(times):
                disturbed.attempt(task, kill_after_s=rng.uniform(0, peace.seconds[task]))
                kills[f"{task}: {ANY_TIME}"] += 1
            disturbed.must(task)
        disturbed.end()
        found = lost(peace, disturbed) + begun_anew(disturbed)
    return {
        "drill": "pods",
        "faults": kills.total(),
        "lost": len(found),
        "what": found,
        "by_place": dict(sorted(kills.items())),
    }


def begun_anew(run: Pipeline) -> list[str]:
    """What the log says was done again though it had been done."""
    text = run.log.read_text()
    found = []
    resumed = [int(n) for n in re.findall(r"resuming after step (\d+)", text)]
    if not any(step >= 4 for step in resumed):
        found.append("training began anew after a state was saved")
    trained = len(re.findall(r"pretrain \| wrote ", text))
    if trained != 1:
        found.append(f"a checkpoint that was made was made {trained} times")
    shards = [int(n) for n in re.findall(r"shards, (\d+) of them done", text)]
    if sum(n > 0 for n in shards) < PARTS:
        found.append("rewriting began anew after a shard was written")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--times", type=int, default=4, help="kills of each task at any time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    out = args.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        result = drill(Path(folder), args.times, args.seed)
    result |= {
        "commit": commit(),
        "command": f"PYTHONPATH=tests python -m drills.pods --times {args.times} --seed {args.seed}",
    }
    end(result, out)


if __name__ == "__main__":
    main()
