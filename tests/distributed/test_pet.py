"""The pods of a TrainJob train together: the job's own command, in the environment that Trainer gives it.

Trainer's plugin for torch adds five variables, PET_*, to those of the job, and the kubelet starts the
command. Both are played here, with a process for each pod.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipflow import params as params_file
from clipflow.artifacts import checkpoint
from clipflow.pretrain import launch, stage
from clipflow.pretrain.job_manifest import PARAMS, Run, manifest
from clipflow.pretrain.placement import Placement
from fakes.launch import make_inputs

RUN = Run("0f9c2d4e-1b7a", "laclip-x7k2p", "team")
TWO_NODES = Placement(
    num_nodes=2,
    accelerator="nvidia.com/gpu",
    accelerators_per_node=0,
    cpu="1",
    memory="2Gi",
    node_selector={},
    tolerations=[],
    image="clipflow-gpu@sha256:" + 64 * "0",
)


def test_pods_stopped_and_started_again_equal_one_process(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["pretrain"] |= {"steps": 40, "log_every": 1, "checkpoint_every": 4}
    inputs = make_inputs(tmp_path)
    section = params_file.select(values, "pretrain")
    stage.run(params_file.parse(section, "pretrain"), **inputs, checkpoint=tmp_path / "1")
    words = launch.arguments(PARAMS, {**inputs, "checkpoint": tmp_path / "2"})
    job = manifest(RUN, TWO_NODES, launch.as_file(json.dumps(section)), words)

    pods = start(job["spec"]["trainer"], tmp_path)
    wait_for(tmp_path / "scratch", "*/step-*[1-9]-*.pt", pods)
    pods[1].send_signal(signal.SIGTERM)  # one node is to go
    statuses, outputs = ends(pods)
    assert all(statuses), outputs
    assert "stopped after step" in outputs[0]
    assert not (tmp_path / "2").exists()

    statuses, outputs = ends(start(job["spec"]["trainer"], tmp_path))  # as JobSet does
    assert statuses == [0, 0], outputs
    assert "on 2 x cpu" in outputs[0]
    assert "resuming after step" in outputs[0]
    assert "on 2 x cpu" not in outputs[1]  # the first of all processes says what happens
    one, two = (pq.read_table(tmp_path / w / checkpoint.HISTORY).to_pydict() for w in ("1", "2"))
    assert two["step"] == one["step"]
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)


def test_pods_get_params_as_they_are(tmp_path: Path) -> None:
    text = json.dumps({"a": "$$ $(HOME) $(KFP_RUN_ID) '\" \\ %s\n"})
    (torchrun := tmp_path / "torchrun").write_text('#!/bin/sh\ncat "$3"; echo "$4" >&2\n')
    torchrun.chmod(0o755)

    job = manifest(RUN, TWO_NODES, text, [PARAMS, "a b"])
    pods = start(job["spec"]["trainer"], tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")

    assert [pod.communicate(timeout=30)[0] for pod in pods] == [f"{text}a b\n"] * 2


def start(trainer: dict[str, Any], folder: Path, **environ: str) -> list[subprocess.Popen[str]]:
    """The pods of a job on this machine; they share scratch, and each has a /tmp/params.json of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **environ,
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }
    pods = []
    for index in range(trainer["numNodes"]):
        mine = environ | {"PET_NODE_RANK": str(index)}  # the completion index of its Job
        for entry in trainer["env"]:
            mine[entry["name"]] = expanded(entry["value"], mine)
        words = [expanded(word, mine) for word in (*trainer["command"], *trainer["args"])]
        words = [word.replace(PARAMS, str(folder / f"params-{index}.json")) for word in words]
        pods.append(
            subprocess.Popen(
                words, env=mine, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    return pods


def ends(pods: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit statuses of pods, and what they wrote."""
    outputs = [pod.communicate(timeout=300)[0] for pod in pods]
    return [pod.returncode for pod in pods], outputs


def wait_for(folder: Path, pattern: str, pods: list[subprocess.Popen[str]]) -> None:
    while not list(folder.glob(pattern)):
        assert all(pod.poll() is None for pod in pods), ends(pods)
        time.sleep(0.05)


def expanded(text: str, environ: dict[str, str]) -> str:
    """A value, command or argument as the kubelet makes it of what a pod's spec says."""

    def expand(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environ.get(found[1], found[0])

    return re.sub(r"\$\$|\$\((\w+)\)", expand, text)
