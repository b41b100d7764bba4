"""The pipeline that Kubernetes runs, in the built images; artifacts go from container to container."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import mlflow
import pytest
from google.protobuf import json_format
from kfp import local

from clipflow import params
from clipflow.artifacts import checkpoint, registration, report
from clipflow.submit import PARAMETER, load, stage_params
from containers import engine
from fakes.artifacts import ROOT


def known_to_docker(target: str) -> str:
    """The whole name: podman puts `localhost/` before it, and kfp would pull what it does not find."""
    client = docker.from_env()
    try:
        tags = [tag for found in client.images.list() for tag in found.tags]
    finally:
        client.close()
    names = [tag for tag in tags if tag.rpartition("/")[2] == engine.image(target)]
    assert names, f"no image {engine.image(target)} at DOCKER_HOST; 'make images' builds it"
    return names[0]


def images_of(pipeline: Any) -> dict[str, str]:
    """The parameters that name images, each with the built one that its default stands for."""
    known = pipeline.pipeline_spec.root.input_definitions.parameters
    defaults = {name: known[name].default_value.string_value for name in known}
    return {
        name: known_to_docker("gpu" if "clipflow-gpu" in default else "cpu")
        for name, default in defaults.items()
        if name.endswith("_image")
    }


def fill_in(pipeline: Any, images: Mapping[str, str]) -> None:
    """Put the images where a pipeline names a parameter of its own, which kfp's local runner does not."""
    spec = pipeline.pipeline_spec.deployment_spec
    text = PARAMETER.sub(
        lambda found: images.get(found[1], found[0]), json_format.MessageToJson(spec)
    )
    spec.Clear()
    json_format.Parse(text, spec)


def test_pipeline_runs_in_containers(
    params_file: Path, folder: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # kfp makes folders as this user, in which containers write as another.
    before = os.umask(0)
    monkeypatch.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kfp's own loose ends
            laclip = load(ROOT / "pipelines" / "laclip.py")
            images = images_of(laclip)
            fill_in(laclip, images)
            local.init(
                runner=local.DockerRunner(
                    user=str(engine.USER),
                    read_only=True,
                    tmpfs={"/tmp": "rw,mode=1777"},
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    network_mode="host",
                    environment={
                        "MLFLOW_TRACKING_URI": mlflow_server,
                        "CLIPFLOW_WORKERS": "0",
                        "OMP_NUM_THREADS": "1",
                    },
                ),
                pipeline_root=str(folder),
            )
            laclip(
                **stage_params(params_file),
                **images,
                accelerators_per_node=0,
                rewrite_parts=2,
            )
    finally:
        os.umask(before)

    (made,) = folder.glob("*/merge-reports/report")
    primary = params.load(params_file, "register").primary
    (decided,) = folder.glob("*/register/registration")
    model, version = (registration.read(decided)[key] for key in ("model", "version"))
    assert registration.read(decided)["metrics"][primary] == report.metrics(made)[primary]

    client = mlflow.MlflowClient(tracking_uri=mlflow_server)
    registered = client.get_model_version(model, version)
    (trained,) = folder.glob("*/pretrain/checkpoint")
    assert registered.tags["mlflow_run_id"] == checkpoint.provenance(trained)["mlflow_run_id"]
    assert registered.tags["git_sha"] == checkpoint.provenance(trained)["git_sha"]
    logged = client.list_artifacts(registered.run_id)
    assert logged, "the report is not in MLflow"
