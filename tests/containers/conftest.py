"""A folder that containers may write to, and an MLflow server in the image that has it on a cluster."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import engine

STARTUP_S = 180


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for containers of any user."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    return shared


@pytest.fixture
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server; its runs and files are in the container's /tmp."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = (
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", "sqlite:////tmp/mlflow.db", "--artifacts-destination", "/tmp/mlflow",
    )  # fmt: skip
    name = f"clipflow-mlflow-{port}"
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    flags = (*engine.CONTAINED, f"--name={name}")
    log = tmp_path_factory.mktemp("mlflow") / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            engine.command("cpu", *words, environment=environment, flags=flags),
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTUP_S
        while not answers(f"{url}/health"):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"MLflow did not start within {STARTUP_S} s"
            time.sleep(1)
        yield url
    finally:
        subprocess.run([engine.ENGINE, "rm", "--force", name], capture_output=True)
        server.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
