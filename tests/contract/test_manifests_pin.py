"""Production gets the images of images.json, or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fakes.artifacts import ROOT
from manifests import policy
from manifests.render import pods, render

CPU = f"registry.example.org:5000/clipflow-cpu@sha256:{'c' * 64}"
GPU = f"registry.example.org:5000/clipflow-gpu@sha256:{'d' * 64}"


def pin(folder: str, digests: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "k8s" / "pin.py"), str(digests)]
    text = yaml.safe_dump_all(render(folder))
    return subprocess.run(command, input=text, capture_output=True, text=True)


def test_production_has_the_images_that_were_pushed(tmp_path: Path) -> None:
    digests = tmp_path / "images.json"
    digests.write_text(json.dumps({"cpu": CPU, "gpu": GPU}))
    done = pin("overlays/prod", digests)
    manifests = list(yaml.safe_load_all(done.stdout))
    assert policy.images(manifests, pinned=True) == []
    used = {container["image"] for pod in pods(manifests) for container in pod.containers()}
    assert {CPU, GPU} < used
    assert "sha256:000" not in done.stdout


@pytest.mark.parametrize(
    "content", [None, "{", '{"cpu": "clipflow-cpu:dev"}', f'{{"cpu": "{CPU}"}}']
)
def test_an_image_that_is_not_known_stops_it(tmp_path: Path, content: str | None) -> None:
    digests = tmp_path / "images.json"
    if content is not None:
        digests.write_text(content)
    done = pin("overlays/prod", digests)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert str(digests) in done.stderr
    assert "make push" in done.stderr
