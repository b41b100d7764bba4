"""`make push` against a real registry: what images.json names can be pulled, and stays what it is."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containers.conftest import answers
from containers.engine import ENGINE
from fakes.artifacts import ROOT

REGISTRY = shutil.which("docker-registry") or shutil.which("registry")
COMMIT = "c0ffee" * 6 + "c0ff"
FLAGS = [] if ENGINE == "docker" else ["--tls-verify=false"]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    assert REGISTRY, "no registry to push to; install Debian's package docker-registry"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"localhost:{probe.getsockname()[1]}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    file = tmp_path / "registry.yml"
    file.write_text(json.dumps(config))
    with subprocess.Popen([REGISTRY, "serve", str(file)], stderr=subprocess.DEVNULL) as server:
        while not answers(f"http://{address}/v2/"):
            assert server.poll() is None
            time.sleep(0.1)
        yield address
        server.terminate()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes small images of a commit; returns their tag."""
    folder = tmp_path / "image"
    folder.mkdir()
    tag = f"push-test-{time.time_ns()}"
    names = [f"clipflow-{target}:{tag}" for target in ("cpu", "gpu")]

    def made(commit: str) -> str:
        (folder / "Dockerfile").write_text(
            f"FROM scratch\nCOPY Dockerfile /\nLABEL org.opencontainers.image.revision={commit}\n"
        )
        for name in names:
            command = [ENGINE, "build", "--tag", name, str(folder)]
            subprocess.run(command, check=True, capture_output=True)
        return tag

    yield made
    ids = subprocess.check_output([ENGINE, "images", "--quiet", *names[:1]], text=True).split()
    ids += subprocess.check_output([ENGINE, "images", "--quiet", *names[1:]], text=True).split()
    subprocess.run(
        [ENGINE, "rmi", "--force", *ids], capture_output=True
    )  # by every name that they got


def push(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "k8s" / "push.py"), ENGINE, *words],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_names_are_digests_that_the_registry_has(
    build: Callable[[str], str], registry: str, tmp_path: Path
) -> None:
    done = push(build(COMMIT), f"{registry}/team", *FLAGS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    images = json.loads((tmp_path / "images.json").read_text())
    assert set(images) == {"cpu", "gpu"}
    for target, name in images.items():
        assert re.fullmatch(rf"{registry}/team/clipflow-{target}@sha256:[0-9a-f]{{64}}", name)
        subprocess.run([ENGINE, "pull", *FLAGS, name], check=True, capture_output=True)
        subprocess.run([ENGINE, "pull", *FLAGS, f"{name.partition('@')[0]}:{COMMIT}"], check=True)

    again = push(build(COMMIT), f"{registry}/team", *FLAGS, folder=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("revision", [f"{COMMIT}-dirty", "unknown"])
def test_images_of_no_commit_are_refused(
    build: Callable[[str], str], tmp_path: Path, revision: str
) -> None:
    done = push(build(revision), "localhost:1", folder=tmp_path)
    assert done.returncode == 1
    assert revision in done.stderr
    assert "make images" in done.stderr
    assert not (tmp_path / "images.json").exists()


def test_registry_away(build: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "images.json").write_text("before")
    done = push(build(COMMIT), "localhost:1/team", *FLAGS, folder=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "images.json").read_text() == "before"


def test_no_registry(tmp_path: Path) -> None:
    done = push(folder=tmp_path)
    assert done.returncode == 1
    assert "REGISTRY=" in done.stderr
