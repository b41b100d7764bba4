"""pretrain on a cluster: in this pod, a process per accelerator, or as a TrainJob over several nodes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from clipflow import component, log, store
from clipflow import params as params_file
from clipflow.errors import ClipflowError
from clipflow.pretrain.job_manifest import PARAMS, SAVE_S, Run
from clipflow.pretrain.placement import Placement

logger = logging.getLogger(__name__)


def launch(params: str, placement: Placement, inputs: Mapping[str, Any], checkpoint: Any) -> None:
    """Train where `placement` says; `inputs` and `checkpoint` are artifacts of a Kubeflow component.

    `params` is the selected section as JSON text.
    """
    if placement.num_nodes > 1:
        as_job(params, placement, inputs, checkpoint)
        return
    with component.folders(
        "pretrain", inputs, {"checkpoint": checkpoint}, made_with=params
    ) as paths:
        alone(params, placement, paths)


def as_job(params: str, placement: Placement, inputs: Mapping[str, Any], checkpoint: Any) -> None:
    """Train in the pods of a TrainJob, which read from the object store and write to it.

    Raises ClipflowError where there is no store, and as `train_job.run`.
    """
    from clipflow.pretrain import train_job

    log.setup("pretrain")
    place = os.environ.get("CLIPFLOW_STORE")
    if not place:
        raise ClipflowError(
            "num_nodes: several nodes share artifacts through an object store, and CLIPFLOW_STORE is not"
            " set; set it in the ConfigMap of k8s/, or train with num_nodes=1"
        )
    run = Run.of_environment()
    urls = {name: store.url_of(Path(artifact.path)) for name, artifact in inputs.items()}
    key = hashlib.sha256(json.dumps([params, urls]).encode()).hexdigest()[:16]
    made = f"{place.rstrip('/')}/runs/{run.id}/checkpoint-{key}"
    train_job.run(run, placement, as_file(params), arguments(PARAMS, {**urls, "checkpoint": made}))
    store.refer(Path(checkpoint.path), made)


def alone(params: str, placement: Placement, paths: Mapping[str, Path]) -> None:
    """Train in this pod: a process for each accelerator, or one on the CPU.

    SIGTERM and Ctrl-C are passed on: training saves first, and this ends with 143 or 130. Raises
    ClipflowError if a process fails. What was saved is in scratch, and the next try goes on from there.
    """
    processes = max(1, placement.accelerators_per_node)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environ = {**os.environ, "CLIPFLOW_IMAGE": placement.image}
    environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SAVE_S)
    if not placement.accelerators_per_node:
        environ["ACCELERATE_USE_CPU"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.json"
        file.write_text(as_file(params), encoding="utf-8")
        command += ["-m", "clipflow", *arguments(file, paths)]
        logger.info("training in this pod, processes: %d", processes)
        status, stopped_by = _run(command, environ)
    if stopped_by and status:
        logger.info("stopped by signal %d: the next try goes on from the saved state", stopped_by)
        raise SystemExit(128 + stopped_by)
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise ClipflowError(
            f"pretrain: training {how}; the lines above say why (memory, if they don't and the signal is"
            " 9), and the next try goes on from the state that was saved last"
        )


def as_file(params: str) -> str:
    """A selected section as the text of a params file that selects it, in JSON, which is YAML."""
    return json.dumps(params_file.whole(json.loads(params), "pretrain"))


def arguments(file: str | Path, locations: Mapping[str, str | Path]) -> list[str]:
    """`pretrain --params FILE --pairs ... --rewrites ... --checkpoint ...`."""
    flags = [word for name, place in locations.items() for word in (f"--{name}", str(place))]
    return ["pretrain", "--params", str(file), *flags]


def _run(command: list[str], environ: Mapping[str, str]) -> tuple[int, int | None]:
    """A command's exit status, and the signal that was passed on to it, if any."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if child:
            child.send_signal(number)

    child: subprocess.Popen[bytes] | None = None
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # In a session of its own, or it would get a signal to the group, such as Ctrl-C, twice.
        child = subprocess.Popen(command, env=environ, start_new_session=True)
        if received:  # while it was being started
            child.send_signal(received[-1])
        return child.wait(), received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
