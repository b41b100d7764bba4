"""Training killed with -9 at many moments ends as if nothing had happened.

    make drill-resume        which is        PYTHONPATH=tests python -m drills.resume --kills 60

One process imports everything and forks a child per attempt, which runs the real stage on the real MLflow
database and is killed: by itself at the k-th pass through one of `PLACES`, or from outside at some time.
The last attempt is left alone. Afterwards its weights must be those of a run that was never killed, bit by
bit, and MLflow must hold each step of each metric exactly once.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import safetensors.torch
import torch
from accelerate import Accelerator
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.harness import commit
from clipflow import params, track
from clipflow.artifacts import checkpoint
from clipflow.model.towers import Towers
from clipflow.pretrain import export, resume, stage, training
from clipflow.pretrain.average import Average
from clipflow.pretrain.params import Params
from clipflow.pretrain.samples import Samples
from clipflow.track import runs
from drills.ending import end
from drills.killing import ANY_TIME, Place, die, forked
from fakes.artifacts import ROOT, make_pairs, make_rewrites

OUT = ROOT / "artifacts" / "drills" / "resume.json"
BATCH = 16
MAX_STEPS_PER_ATTEMPT = 4
LONGEST_ATTEMPT_S = 2.0


@dataclass(frozen=True)
class Torn:
    """A state of which only half the bytes are written."""

    passes: int = 1

    def arm(self, at: int) -> None:
        original, passed = torch.save, 0

        def save(contents: Any, stream: io.BufferedWriter) -> None:
            nonlocal passed
            passed += 1
            if passed < at:
                return original(contents, stream)
            whole = io.BytesIO()
            original(contents, whole)
            stream.write(whole.getvalue()[: whole.tell() // 2])
            stream.flush()
            return die()

        torch.save = save


def is_state(path: Path, *_: Any) -> bool:
    return path.name.startswith("st")


FIRST: dict[str, Place | Torn] = {
    "start: joined samples in place": Place(stage, "join", "after", passes=1),
    "start: MLflow run made": Place(runs, "_create", "after", passes=1),
    "start: run known": Place(resume.Scratch, "save", "after", passes=1),
}
"""Where a run passes before it has a state."""
PLACES: dict[str, Place | Torn] = {
    "data: reading an image": Place(Samples, "image", passes=BATCH * MAX_STEPS_PER_ATTEMPT),
    "data: reading texts": Place(Samples, "texts", passes=BATCH * MAX_STEPS_PER_ATTEMPT),
    "step: forward": Place(Towers, "image", passes=MAX_STEPS_PER_ATTEMPT),
    "step: backward": Place(Accelerator, "backward", "after", passes=MAX_STEPS_PER_ATTEMPT),
    "step: before the optimizer": Place(training, "step_unless", passes=MAX_STEPS_PER_ATTEMPT),
    "step: after the optimizer": Place(
        training, "step_unless", "after", passes=MAX_STEPS_PER_ATTEMPT
    ),
    "step: after the average": Place(Average, "update", "after", passes=MAX_STEPS_PER_ATTEMPT),
    "state: half written": Torn(),
    "state: before fsync": Place(os, "fsync", passes=1),
    "state: before the rename": Place(Path, "replace", passes=1, only=is_state),
    "state: after the rename": Place(Path, "replace", "after", passes=1, only=is_state),
    "state: old one deleted": Place(Path, "unlink", "after", passes=1, only=is_state),
    "state: read": Place(torch, "load", "after", passes=1),
    "log: before sending": Place(track.Run, "log", passes=2),
    "log: in the transaction": Place(
        SqlAlchemyStore,
        "_update_latest_metrics_if_necessary",
        "after",
        passes=2,
        only=lambda _, metrics, __: any(metric.key.startswith("train/") for metric in metrics),
    ),
    "log: sent": Place(track.Run, "log", "after", passes=2),
}
"""Where a run passes again and again."""
LAST: dict[str, Place | Torn] = {
    "end: before the checkpoint": Place(export, "write", passes=1),
    "end: checkpoint in place": Place(track.Run, "log_artifacts", passes=1),
    "end: MLflow run finished": Place(resume.Scratch, "clear", passes=1),
}
"""Where a run passes after its last step."""

AHEAD = Place(training, "step_unless", passes=MAX_STEPS_PER_ATTEMPT)
"""Where an attempt that is killed at any time ends at the latest, so that steps are left for the others."""


def prepare(folder: Path, num_steps: int) -> tuple[Params, dict[str, Path]]:
    """Tiny params and data; scratch and MLflow are in this folder from now on."""
    os.chdir(folder)
    os.environ |= {
        "CLIPFLOW_WORKERS": "0",
        "CLIPFLOW_SCRATCH": str(folder / "scratch"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    torch.set_num_threads(1)  # threads would not survive a fork
    captions = {f"k{n:02d}": f"a caption of image {n}" + " and more" * (n % 5) for n in range(48)}
    pairs = make_pairs(folder / "pairs", captions)
    texts = make_rewrites(
        folder / "rewrites", pairs, {key: [f"rewrite of {key}"] for key in captions}
    )
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["pretrain"] |= {"architecture": "clipflow-tiny", "batch_size": BATCH, "steps": num_steps,
                           "warmup_steps": 5, "log_every": 2, "checkpoint_every": 3,
                           "ema_decay": 0.9}  # fmt: skip
    return params.parse(params.select(values, "pretrain"), "pretrain"), {
        "pairs": pairs,
        "rewrites": texts,
    }


def plan(num_kills: int, rng: random.Random) -> list[str]:
    """Places to be killed at in turn, every place at least once and each in its phase of the run."""
    between = [*PLACES, ANY_TIME, ANY_TIME]
    num_between = num_kills - len(FIRST) - len(LAST)
    if num_between < len(between):
        raise SystemExit(
            f"--kills: at least {len(FIRST) + len(between) + len(LAST)}, one per place"
        )
    chosen = [between[n % len(between)] for n in range(num_between)]
    rng.shuffle(chosen)
    return [*FIRST, *chosen, *LAST]


def drill(folder: Path, num_kills: int, num_steps: int, seed: int) -> dict[str, Any]:
    """Train once in peace and once killed again and again; what the second lost against the first."""
    rng = random.Random(seed)
    config, inputs = prepare(folder, num_steps)
    log_file = folder / "log.txt"

    def train(name: str, arm: Callable[[], None] = lambda: None) -> Callable[[], None]:
        def run() -> None:
            arm()
            stage.run(config, **inputs, checkpoint=folder / name)

        return run

    def must(status: int, expected: int, what: str) -> None:
        if status != expected:
            raise SystemExit(f"{what}: exit status {status}\n{log_file.read_text()[-3000:]}")

    must(forked("pretrain", train("straight"), log_file), 0, "the run in peace")
    places = plan(num_kills, rng)
    for where in tqdm(places, desc="kills", leave=False):
        place = {**FIRST, **PLACES, **LAST}.get(where)
        if place:
            at = rng.randint(1, place.passes)
            status = forked("pretrain", train("killed", lambda at=at, p=place: p.arm(at)), log_file)
        else:
            status = forked(
                "pretrain",
                train("killed", lambda: AHEAD.arm(MAX_STEPS_PER_ATTEMPT)),
                log_file,
                kill_after_s=rng.uniform(0, LONGEST_ATTEMPT_S),
            )
        must(status, -signal.SIGKILL, f"killed at '{where}'")
    must(forked("pretrain", train("killed"), log_file), 0, "the last attempt")
    found = lost(folder / "straight", folder / "killed")
    return {
        "drill": "resume",
        "faults": len(places),
        "lost": len(found),
        "what": found,
        "by_place": dict(sorted(Counter(places).items())),
    }


def lost(straight: Path, killed: Path) -> list[str]:
    """What a checkpoint that was killed for and its MLflow runs lack, or have otherwise or twice."""
    one, other = (safetensors.torch.load_file(f / checkpoint.WEIGHTS) for f in (straight, killed))
    found = [f"weight {n}" for n in one.keys() | other.keys() if not torch.equal(one[n], other[n])]
    if losses(straight) != losses(killed):
        found.append("history")
    client = track.client()
    (experiment,) = (e for e in client.search_experiments() if e.name == "clipflow")
    in_peace = checkpoint.provenance(straight)["mlflow_run_id"]
    runs_made = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    # Not of the checkpoint's run alone: one that was begun and lost sight of must not hold any either.
    expected, logged = metrics({in_peace}), metrics(runs_made - {in_peace})
    found += [f"metric {step} missing" for step in expected.keys() - logged.keys()]
    found += [f"metric {step} too many" for step in logged.keys() - expected.keys()]
    found += [
        f"metric {step} {len(values)} times" for step, values in logged.items() if len(values) > 1
    ]
    found += [
        f"metric {step} of another value"
        for step, values in logged.items()
        if step[0] in {"train/loss", "train/grad_norm"} and values != expected.get(step)
    ]
    return sorted(found)


def losses(folder: Path) -> dict[str, list[float]]:
    table = pq.read_table(folder / checkpoint.HISTORY, columns=["step", "loss", "grad_norm", "lr"])
    found: dict[str, list[float]] = table.to_pydict()
    return found


def metrics(run_ids: set[str]) -> dict[tuple[str, int], list[float]]:
    """The values that MLflow holds, by name and step."""
    client = track.client()
    found = defaultdict(list)
    for run_id in run_ids:
        names = [n for n in client.get_run(run_id).data.metrics if n.startswith("train/")]
        for metric in (m for name in names for m in client.get_metric_history(run_id, name)):
            found[metric.key, metric.step].append(metric.value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    out = args.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        num_steps = MAX_STEPS_PER_ATTEMPT * args.kills
        result = drill(Path(folder), args.kills, num_steps, args.seed)
    result |= {
        "steps": num_steps,
        "commit": commit(),
        "command": f"PYTHONPATH=tests python -m drills.resume --kills {args.kills} --seed {args.seed}",
    }
    end(result, out)


if __name__ == "__main__":
    main()
