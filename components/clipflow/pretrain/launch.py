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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from clipflow import component, log, store
from clipflow import params as params_file
from clipflow.errors import ClipflowError
from clipflow.pretrain.placement import Placement

logger = logging.getLogger(__name__)


def launch(params: str, placement: Placement, inputs: Mapping[str, Any], checkpoint: Any) -> None:
    """Train where `placement` says; `inputs` and `checkpoint` are artifacts of a Kubeflow component."""
    if placement.num_nodes == 1:
        with component.folders(
            "pretrain", inputs, {"checkpoint": checkpoint}, made_with=params
        ) as paths:
            alone(params, placement, paths)
        return
    log.setup("pretrain")
    place = os.environ.get("CLIPFLOW_STORE")
    if not place:
        raise ClipflowError(
            "num_nodes: several nodes share artifacts through an object store, and CLIPFLOW_STORE is not"
            " set; set it in the ConfigMap of k8s/, or train with num_nodes=1"
        )
    from clipflow.pretrain import train_job

    urls = {name: store.url_of(Path(artifact.path)) for name, artifact in inputs.items()}
    run = train_job.Run(
        *(_needed(name) for name in ("KFP_RUN_ID", "KFP_WORKFLOW", "POD_NAMESPACE"))
    )
    key = hashlib.sha256(json.dumps([params, urls]).encode()).hexdigest()[:16]
    made = f"{place.rstrip('/')}/runs/{run.id}/checkpoint-{key}"
    words = arguments("/tmp/params.json", urls | {"checkpoint": made})
    train_job.run(run, placement, as_file(params), words)
    store.refer(Path(checkpoint.path), made)


def _needed(name: str) -> str:
    if value := os.environ.get(name):
        return value
    raise ClipflowError(
        f"{name}: not in the environment; pipelines set it from the pod's labels: run this as their task"
    )


def alone(params: str, placement: Placement, paths: Mapping[str, Path]) -> None:
    """Train in this pod. `params` is the selected section as JSON text.

    A SIGTERM is passed on: training saves first. Raises ClipflowError if a process fails; what it saved is
    in scratch, and the next try goes on from there.
    """
    num = max(1, placement.accelerators_per_node)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num}",
    ]
    environ = dict(os.environ)
    if not placement.accelerators_per_node:
        environ["ACCELERATE_USE_CPU"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.json"
        file.write_text(as_file(params), encoding="utf-8")
        command += ["-m", "clipflow", *arguments(file, paths)]
        logger.info("%d processes in this pod", num)
        with (
            subprocess.Popen(command, env=environ, start_new_session=True) as child,
            _passing_on(child),
        ):
            status = child.wait()
    if status:
        raise ClipflowError(
            f"pretrain: its processes ended with status {status}; their last lines above say why,"
            " and the next try goes on from the state that was saved last"
        )


def as_file(params: str) -> str:
    """A selected section as the text of a params file that selects it, in JSON, which is YAML."""
    return json.dumps(params_file.whole(json.loads(params), "pretrain"))


def arguments(file: str | Path, locations: Mapping[str, str | Path]) -> list[str]:
    """`pretrain --params FILE --pairs ... --rewrites ... --checkpoint ...`."""
    flags = [word for name, place in locations.items() for word in (f"--{name}", str(place))]
    return ["pretrain", "--params", str(file), *flags]


@contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Send SIGTERM and Ctrl-C on to the child, which has a session of its own and would not see them."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
