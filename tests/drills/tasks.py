"""The tasks of `pipelines/laclip.py` as pods run them: what a drill disturbs.

Each try of a task is a process that runs the real component with empty output folders, as a new pod has
them. What is handed on are references; artifacts go through the object store, and what a task goes on
from after a kill is in scratch. Training has its real child processes. Kubeflow itself is not here.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3  # noqa: F401  # imported once, not once a try
import psutil
from kfp import dsl
from ruamel.yaml import YAML

from clipflow import params, store, track
from clipflow.artifacts import benchmarks, manifest
from clipflow.evaluate.component import evaluate, merge_reports
from clipflow.finish import stage as finish
from clipflow.ingest.component import ingest
from clipflow.pretrain.component import pretrain
from clipflow.pretrain.placement import Placement
from clipflow.register.component import register
from clipflow.rewrite.component import merge_rewrites, rewrite
from drills.killing import forked
from fakes.artifacts import ROOT

NUM_PAIRS, SHARD, PARTS = 240, 10, 2
RUN_ID = "drill"
TINY: dict[str, Any] = {
    "sources": {"scenes": {"num_pairs": NUM_PAIRS, "num_train": 24, "num_test": 24, "size_px": 32}},
    "ingest": {"samples_per_shard": SHARD},
    "rewrite": {"num_rewrites": 2},
    "pretrain": {"architecture": "clipflow-tiny", "batch_size": 16, "steps": 12, "warmup_steps": 2,
                 "log_every": 2, "checkpoint_every": 2},
}  # fmt: skip
ALONE = Placement(
    num_nodes=1,
    accelerator="nvidia.com/gpu",
    accelerators_per_node=0,
    cpu="1",
    memory="1Gi",
    node_selector={},
    tolerations=[],
    image="none",
)
NOT_CONTENT = {store.PROVENANCE, "history.parquet"}
"""Files that name a run or hold how fast it was; no manifest knows of them."""
WITH_SPEED = {"report/report.html", "report/manifest.json"}
"""The page draws how fast training was, and its manifest holds the page's digest."""


def tiny_params() -> dict[str, str]:
    """The section of each stage as components get it, of the real params.yaml made tiny."""
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    for section, entries in copy.deepcopy(TINY).items():
        for key, value in entries.items():
            values[section][key] = (
                {**values[section][key], **value} if isinstance(value, dict) else value
            )
    return {stage: json.dumps(params.select(values, stage)) for stage in params.STAGES}


@dataclass
class Pipeline:
    """One run of the pipeline in a folder of its own."""

    folder: Path
    environ: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long the last try of each task took."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.params = tiny_params()
        self.log = self.folder / "log.txt"
        self.environ = {
            "CLIPFLOW_DATA": str(self.folder / "scratch" / "data"),
            "CLIPFLOW_SCRATCH": str(self.folder / "scratch"),
            "CLIPFLOW_WORKERS": "0",
            "KFP_RUN_ID": RUN_ID,
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            **self.environ,
        }
        self._child("mlflow", track.connect)  # makes the database, as a server has it

    def tasks(self) -> dict[str, Callable[[], None]]:
        """What each task does, in an order that their inputs allow."""
        return {
            "ingest": self._ingest,
            **{f"rewrite-{n}": lambda n=n: self._rewrite(n) for n in range(PARTS)},
            "merge-rewrites": self._merge_rewrites,
            "pretrain": self._pretrain,
            "evaluate": self._evaluate,
            "merge-reports": self._merge_reports,
            "register": self._register,
        }

    def attempt(
        self,
        task: str,
        arm: Callable[[], None] = lambda: None,
        kill_after_s: float | None = None,
    ) -> int:
        """The exit status of a try in a process of its own, killed with all its children if asked."""
        outputs = self.folder / "outputs" / task
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir(parents=True)

        def run() -> None:
            arm()
            self.tasks()[task]()

        start = time.monotonic()
        status = self._child(task, run, kill_after_s)
        _end_orphans(self.environ["CLIPFLOW_SCRATCH"])
        self.seconds[task] = time.monotonic() - start
        return status

    def _child(self, name: str, call: Callable[[], None], kill_after_s: float | None = None) -> int:
        def run() -> None:
            os.chdir(self.folder)
            os.environ.update(self.environ)
            call()

        return forked(name, run, self.log, kill_after_s)

    def must(self, task: str) -> None:
        """A try that is left alone ends well."""
        if status := self.attempt(task):
            raise SystemExit(f"{task}: exit status {status}\n{self.log.read_text()[-3000:]}")

    def end(self) -> None:
        """What the exit handler does."""
        job = f"jobs/{RUN_ID}"
        if self._child("finish", lambda: finish.run(state="SUCCEEDED", error="", job=job)):
            raise SystemExit(f"finish failed\n{self.log.read_text()[-3000:]}")

    def output(self, task: str, name: str) -> Path:
        """What a task handed on."""
        return self.folder / "outputs" / task / name

    def _out(self, task: str, name: str, kind: type = dsl.Artifact) -> Any:
        return kind(name=name, uri=str(self.output(task, name)), metadata={})

    def _digest(self, task: str, name: str) -> str:
        return self.output(task, f"{name}_digest").read_text()

    def _of(self, task: str, name: str) -> dict[str, Any]:
        return {name: self._out(task, name), f"{name}_digest": self._digest(task, name)}

    def _made(self, task: str, name: str) -> dict[str, Any]:
        return {name: self._out(task, name), f"{name}_digest": self.output(task, f"{name}_digest")}

    def _ingest(self) -> None:
        ingest.python_func(
            self.params["ingest"],
            "",
            **self._made("ingest", "pairs"),
            **self._made("ingest", "benchmarks"),
        )

    def _rewrite(self, part: int) -> None:
        rewrite.python_func(
            self.params["rewrite"],
            f"{part}/{PARTS}",
            **self._of("ingest", "pairs"),
            **self._made(f"rewrite-{part}", "rewrites"),
        )

    def _merge_rewrites(self) -> None:
        parts = [f"rewrite-{n}" for n in range(PARTS)]
        merge_rewrites.python_func(
            [self._out(part, "rewrites") for part in parts],
            [self._digest(part, "rewrites") for part in parts],
            **self._of("ingest", "pairs"),
            **self._made("merge-rewrites", "rewrites"),
            page=self._out("merge-rewrites", "page", dsl.HTML),
            metrics=self._out("merge-rewrites", "metrics", dsl.Metrics),
        )

    def _pretrain(self) -> None:
        pretrain.python_func(
            self.params["pretrain"],
            ALONE.model_dump_json(),
            **self._of("ingest", "pairs"),
            **self._of("merge-rewrites", "rewrites"),
            **self._made("pretrain", "checkpoint"),
        )

    def _measured(self) -> dict[str, Any]:
        return {**self._of("pretrain", "checkpoint"), **self._of("ingest", "benchmarks")}

    def _evaluate(self) -> None:
        """All benchmarks in one process: a fan-out of tasks that differ in nothing else."""
        for name in benchmarks.names(self.output("ingest", "benchmarks")):
            evaluate.python_func(
                self.params["evaluate"],
                name,
                **self._measured(),
                report=self._out("evaluate", name),
                report_digest=self.output("evaluate", f"{name}_digest"),
            )

    def _merge_reports(self) -> None:
        names = benchmarks.names(self.output("ingest", "benchmarks"))
        merge_reports.python_func(
            self.params["evaluate"],
            [self._out("evaluate", name) for name in names],
            [self._digest("evaluate", name) for name in names],
            **self._measured(),
            **self._made("merge-reports", "report"),
            metrics=self._out("merge-reports", "metrics", dsl.Metrics),
            page=self._out("merge-reports", "page", dsl.HTML),
            confusion=self._out("merge-reports", "confusion", dsl.ClassificationMetrics),
        )

    def _register(self) -> None:
        register.python_func(
            self.params["register"],
            self._out("pretrain", "checkpoint"),
            self._out("merge-reports", "report"),
            self._out("register", "registration"),
        )


def lost(peace: Pipeline, disturbed: Pipeline) -> list[str]:
    """What the artifacts of a disturbed run lack or have otherwise, byte by byte, and twice in MLflow."""
    found = []
    for manifest_file in sorted((peace.folder / "outputs").rglob(manifest.MANIFEST)):
        name = manifest_file.parent.relative_to(peace.folder)
        one, other = _whole(peace, name), _whole(disturbed, name)
        found += [
            f"{name}/{file}"
            for file in sorted(one.keys() | other.keys())
            if one.get(file) != other.get(file) and f"{name.name}/{file}" not in WITH_SPEED
        ]
    return found + registered_twice(disturbed)


def _whole(run: Pipeline, name: Path) -> dict[str, bytes]:
    """The content behind an output, downloaded anew."""
    folder = run.folder / name
    if store.reference(folder):
        os.environ.update(run.environ | {"CLIPFLOW_DATA": str(run.folder / "verified")})
        folder = store.at_hand(folder)
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in NOT_CONTENT
    }


def registered_twice(run: Pipeline) -> list[str]:
    """Versions beyond the first, metrics that came twice or as others, and runs that seem to go on."""
    os.environ.update(run.environ)
    client = track.client()
    versions = client.search_model_versions()
    found = [f"{len(versions)} versions"] if len(versions) != 1 else []
    for experiment in client.search_experiments():
        for one in client.search_runs([experiment.experiment_id]):
            if one.info.status == "RUNNING":
                found.append(f"run {one.info.run_name} still running")
            for name in (n for n in one.data.metrics if not n.startswith("system/")):
                points = client.get_metric_history(one.info.run_id, name)
                steps = {point.step for point in points}
                if name.startswith("train/"):
                    is_wrong = len(points) > len(steps)
                else:  # a measurement that is repeated is logged again; it must be the same
                    is_wrong = len({(point.step, point.value) for point in points}) > len(steps)
                if is_wrong:
                    found.append(f"{name} of {one.info.run_name}: a step came twice")
    return found


def _end_orphans(scratch: str) -> None:
    """A pod's end is that of all its processes: those that have its scratch in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CLIPFLOW_SCRATCH") == scratch:
                process.kill()
                process.wait(10)
