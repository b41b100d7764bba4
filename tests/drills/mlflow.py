"""Training and registering through an MLflow server that fails end as if nothing had happened.

    make drill-mlflow        which is        PYTHONPATH=tests python -m drills.mlflow --down-s 60

A real server is killed with -9 while the real pretrain stage logs to it, and started again: after some time
in the middle of training and just before it ends, and at once several times. Then the real register stage
goes through a proxy, where each kind of request in turn gets 503, loses its connection, or loses its answer
after the server did what was asked; the stage is tried until it ends well, as Kubeflow does. Afterwards
MLflow must hold each step of each metric exactly once, and each checkpoint exactly one version.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.harness import commit
from clipflow import params, track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import registration as registrations
from clipflow.artifacts import report as reports
from clipflow.pretrain import stage as pretrain
from clipflow.pretrain import training
from clipflow.register import stage as register
from clipflow.track import runs
from drills.ending import end
from drills.killing import forked
from fakes import mlflow_server, proxy
from fakes.artifacts import ROOT, make_pairs, make_rewrites

OUT = ROOT / "artifacts" / "drills" / "mlflow.json"
OUTAGES = ("middle", "flapping", "end")
KINDS = ("error", "drop", "lose")
STEPS = 40
BATCH = 16
FLAPS = 3
TRIES = 5
"""Times that registering may be tried; Kubeflow's are 4, but here every request fails once."""
REQUESTS = {
    "registered-models/create": "POST",
    "logged-models": "POST",
    "mlflow-artifacts/artifacts": "PUT",
    "runs/outputs": "POST",
    "runs/log-batch": "POST",
    "logged-models/m-": "PATCH",
    "model-versions/create": "POST",
    "registered-models/alias": "POST",
}
"""What registering changes, by a part of the path."""


@contextmanager
def serving(folder: Path) -> Iterator[mlflow_server.Server]:
    """A running server, on an SQLite file so that it needs nothing else."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1",
        f"--backend-store-uri=sqlite:///{folder / 'server.db'}",
        f"--artifacts-destination={folder / 'files'}",
    ]  # fmt: skip
    # Its background jobs are for language models.
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = mlflow_server.Server(command, environ, folder, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def prepare(folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Tiny params by stage, and data."""
    captions = {f"k{n:02d}": f"a caption of image {n}" for n in range(48)}
    pairs = make_pairs(folder / "pairs", captions)
    texts = {key: [f"rewrite of {key}"] for key in captions}
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["pretrain"] |= {"architecture": "clipflow-tiny", "batch_size": BATCH, "steps": STEPS,
                           "warmup_steps": 5, "log_every": 1, "checkpoint_every": 10}  # fmt: skip
    sections = {
        name: params.parse(params.select(values, name), name) for name in ("pretrain", "register")
    }
    return sections, {
        "pairs": pairs,
        "rewrites": make_rewrites(folder / "rewrites", pairs, texts),
    }


def drill(
    folder: Path, down_s: float, outages: Sequence[str] = OUTAGES, kinds: Sequence[str] = KINDS
) -> dict[str, Any]:
    """Train and register in peace and in trouble; what the second lost against the first."""
    os.chdir(folder)
    os.environ |= {"CLIPFLOW_WORKERS": "0", "OMP_NUM_THREADS": "1"}
    sections, inputs = prepare(folder)
    log_file, step_file = folder / "log.txt", folder / "step"
    faults: Counter[str] = Counter()
    with serving(folder) as server:

        def train(name: str, pause_s: float) -> int:
            def run() -> None:
                os.environ["MLFLOW_TRACKING_URI"] = server.uri
                os.environ["CLIPFLOW_SCRATCH"] = str(folder / f"scratch-{name}")
                runs.PAUSE_S = min(runs.PAUSE_S, down_s / 4)
                _slow(pause_s, step_file)
                pretrain.run(sections["pretrain"], **inputs, checkpoint=folder / name)

            step_file.write_text("0")
            return forked("pretrain", run, log_file)

        def meanwhile(act: Callable[[], None], at_step: int) -> threading.Thread:
            """Act when training is at a step."""

            def wait() -> None:
                while int(step_file.read_text() or 0) < at_step:
                    time.sleep(0.01)
                act()

            thread = threading.Thread(target=wait)
            thread.start()
            return thread

        def outage(seconds: float) -> None:
            faults["server killed"] += 1
            server.kill()
            time.sleep(seconds)
            server.start()

        def flapping() -> None:
            for _ in range(FLAPS):
                outage(0)

        found = []
        _must(train("peace", 0), "training in peace", log_file)
        plan = {
            "middle": (lambda: outage(down_s), 10, 0.06 * down_s),
            "flapping": (flapping, 5, 0.5),
            "end": (lambda: outage(down_s), STEPS - 3, 0.1),
        }
        for name in outages:
            act, at_step, pause_s = plan[name]
            step_file.write_text("0")
            thread = meanwhile(act, at_step)
            status = train(name, pause_s)
            thread.join()
            _must(status, f"training, outage: {name}", log_file)
            found += [
                f"{name}: {what}" for what in lost(server.uri, folder / "peace", folder / name)
            ]
        found += _register_all(folder, sections["register"], server, kinds, faults, log_file)
    return {
        "faults": sum(faults.values()),
        "lost": len(found),
        "what": found,
        "down_s": down_s,
        "by_kind": dict(sorted(faults.items())),
    }


def _register_all(
    folder: Path,
    section: Any,
    server: mlflow_server.Server,
    kinds: Sequence[str],
    faults: Counter[str],
    log_file: Path,
) -> list[str]:
    """Register the checkpoint under a new name for each fault; what is there twice, or not at all."""
    found = []
    report = make_report(folder / "report", section.primary)
    for kind in kinds:
        for part, method in REQUESTS.items():
            due = [1]

            def fault(
                asked: str, path: str, due: list[int] = due, part: str = part,
                method: str = method, kind: str = kind,
            ) -> str | None:  # fmt: skip
                if asked == method and part in path and due:
                    due.clear()
                    return kind
                return None

            name = f"{kind}-{part.replace('/', '-')}"
            renamed = section.model_copy(update={"model": name})
            with proxy.serve(server.uri, fault) as url:

                def run(url: str = url, renamed: Any = renamed, name: str = name) -> None:
                    os.environ["MLFLOW_TRACKING_URI"] = url
                    register.run(renamed, checkpoint=folder / "peace", report=report,
                                 registration=folder / name)  # fmt: skip

                for _ in range(TRIES):
                    status = forked("register", run, log_file)
                    if not status:
                        break
            _must(status, f"registering, {kind} of {part}", log_file)
            if due:
                found.append(f"{name}: no such request")
            faults[f"{kind}: {part}"] += 1
            found += [f"{name}: {what}" for what in registered_otherwise(server.uri, folder / name)]
    return found


def registered_otherwise(uri: str, registration: Path) -> list[str]:
    """How the registry differs from one version with the aliases that the registration names."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    client, told = track.client(), registrations.read(registration)
    versions = client.search_model_versions(f"name = '{told['model']}'")
    experiments = [e.experiment_id for e in client.search_experiments()]
    models = client.search_logged_models(experiments, f"name = '{told['model']}'")
    found = []
    if [str(v.version) for v in versions] != [told["version"]]:
        found.append(f"{len(versions)} versions")
    elif track.aliases(versions[0]) != told["aliases"]:
        found.append(f"aliases {track.aliases(versions[0])}")
    if [str(m.status) for m in models] != ["READY"]:
        found.append(f"{len(models)} models")
    return found


def lost(uri: str, peace: Path, other: Path) -> list[str]:
    """What the run of a checkpoint lacks against that of another, or has otherwise or twice."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    one, two = (checkpoints.provenance(folder)["mlflow_run_id"] for folder in (peace, other))
    client = track.client()
    runs_of = [client.get_run(run_id) for run_id in (one, two)]
    found = [] if runs_of[1].info.status == "FINISHED" else [f"status {runs_of[1].info.status}"]
    if runs_of[0].data.params != runs_of[1].data.params:
        found.append("params")
    if runs_of[0].data.tags.keys() != runs_of[1].data.tags.keys():
        found.append("tags")
    files = [[f.path for f in client.list_artifacts(i, "checkpoint")] for i in (one, two)]
    if files[0] != files[1] or not files[0]:
        found.append("files")
    names = {n for r in runs_of for n in r.data.metrics if n.startswith("train/")}
    for name in sorted(names):
        histories = [client.get_metric_history(i, name) for i in (one, two)]
        steps = [sorted(point.step for point in history) for history in histories]
        if steps[0] != steps[1] or len(set(steps[1])) != len(steps[1]):
            found.append(f"{name}: steps {steps[1]}, expected {steps[0]}")
        elif name == "train/loss" and len({_values(history) for history in histories}) != 1:
            found.append(f"{name}: other values")
    made = client.search_runs([runs_of[1].info.experiment_id], "attributes.status = 'RUNNING'")
    return found + [f"run {run.info.run_name} seems to go on" for run in made]


def make_report(folder: Path, primary: str) -> Path:
    """A report with one metric."""
    folder.mkdir()
    manifest.write_json(folder / reports.METRICS, {primary: 0.5})
    digest = manifest.file_digest(folder / reports.METRICS)
    manifest.write(folder, reports.SCHEMA, benchmarks="b" * 32, sha256=digest)
    return folder


def _values(history: list[Any]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((point.step, point.value) for point in history))


def _slow(pause_s: float, step_file: Path) -> None:
    """Each step takes so long, and is told."""
    step_unless, done = training.step_unless, 0

    def slow(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        step_file.write_text(str(done))
        time.sleep(pause_s)
        return step_unless(*args, **kwargs)

    training.step_unless = slow


def _must(status: int, what: str, log_file: Path) -> None:
    if status:
        raise SystemExit(f"{what}: exit status {status}\n{log_file.read_text()[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--down-s", type=float, default=60, help="how long the server is away")
    parser.add_argument("--outages", nargs="+", choices=OUTAGES, default=OUTAGES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    out = args.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        result = drill(Path(folder), args.down_s, args.outages, args.kinds)
        os.chdir(out.root)
    result = {
        "drill": "mlflow",
        **result,
        "commit": commit(),
        "command": f"PYTHONPATH=tests python -m drills.mlflow --down-s {args.down_s:g}",
    }
    end(result, out)


if __name__ == "__main__":
    main()
