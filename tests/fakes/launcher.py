"""The task that starts and follows a TrainJob, as a process that signals reach."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipflow import log
from clipflow.errors import ClipflowError
from clipflow.pretrain.job_manifest import Run
from clipflow.pretrain.placement import Placement

if TYPE_CHECKING:  # each process would import what it imports
    from fakes.kubernetes_api import KubernetesApi

RUN = Run(id="5f2c9a10-77aa-4c1e-9a53-000000000001", workflow="laclip-x7k2p", namespace="team")
PLACEMENT = Placement(
    num_nodes=2,
    accelerator="nvidia.com/gpu",
    accelerators_per_node=4,
    cpu="8",
    memory="64Gi",
    node_selector={"clipflow.dev/pool": "gpu"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    image="registry.example.org/clipflow-gpu@sha256:" + "0" * 64,
)
ARGUMENTS = ["pretrain", "--params", "/tmp/params.json", "--pairs", "s3://b/pairs"]
PARAMS = '{"pretrain": {"steps": 10}}'
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["clipflow.pretrain.train_job"])  # imported once, not once a process


class Launcher:
    """`train_job.run`, with short pauses; an error ends it with 2, as the command line does."""

    def __init__(
        self,
        api: KubernetesApi,
        folder: Path,
        *,
        placement: Placement = PLACEMENT,
        away_s: float = 20,
    ) -> None:
        self._log = folder / "launcher.log"
        self.process = FORKS.Process(
            target=_run, args=(api.kubeconfig(folder), self._log, placement, away_s)
        )
        self.process.start()

    @property
    def log(self) -> str:
        """What it has logged until now."""
        return self._log.read_text() if self._log.exists() else ""

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Go on when it has logged this."""
        until = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < until, f"no '{text}' in:\n{self.log}"
            assert self.process.is_alive() or text in self.log, f"no '{text}' in:\n{self.log}"
            time.sleep(0.02)

    def send(self, number: int) -> None:
        """A signal."""
        assert self.process.pid
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 120) -> int | None:
        """The exit status."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.send(signal.SIGKILL)
            raise AssertionError(f"still running:\n{self.log}")
        return self.process.exitcode


def _run(kubeconfig: Path, file: Path, placement: Placement, away_s: float) -> None:
    from kubernetes.config import kube_config

    from clipflow.pretrain import api, train_job

    stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, sys.stderr.fileno())
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = str(kubeconfig)  # read when the package is imported
    settings: Any = vars(api)
    settings |= {"PAUSE_S": (0.05, 0.2), "CALL_S": 5.0}
    api.Api.ask.__kwdefaults__["patience_s"] = away_s  # type: ignore[index]
    train_job.LEAVE_S = 1.0
    log.setup("pretrain")
    try:
        train_job.run(RUN, placement, PARAMS, ARGUMENTS, poll_s=0.1)
    except ClipflowError as error:
        sys.stderr.write(f"clipflow: {error}\n")
        sys.exit(2)
