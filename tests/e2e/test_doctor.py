"""`clipflow doctor` asks a real MLflow server, run as k8s/ runs it."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

from clipflow.doctor import services


def test_what_a_server_with_accounts_and_allowed_hosts_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        "admin_username = admin\nadmin_password = a-password-of-tests\n"
    )
    environ = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}"),
        *("--workers=1", "--app-name=basic-auth", f"--allowed-hosts=127.0.0.1:{port}"),
        f"--backend-store-uri=sqlite:///{tmp_path / 'mlflow.db'}",
    ]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/health")
            account = {
                "MLFLOW_TRACKING_USERNAME": "admin",
                "MLFLOW_TRACKING_PASSWORD": "a-password-of-tests",
            }
            right = services.mlflow({"MLFLOW_TRACKING_URI": url} | account)
            nobody = services.mlflow({"MLFLOW_TRACKING_URI": url})
            other = services.mlflow(
                {"MLFLOW_TRACKING_URI": url} | account | {"MLFLOW_TRACKING_PASSWORD": "wrong"}
            )
            name = {"MLFLOW_TRACKING_URI": f"http://localhost:{port}"}
            stranger = services.mlflow(name | account)
        finally:
            server.terminate()
    assert right.mark == "ok", right
    assert right.said == f"{importlib.metadata.version('mlflow')} at {url}"
    assert nobody.said == f"{url} answered 401 to asking without an account"
    assert other.said == f"{url} answered 401 to the account admin"
    assert f"doesn't let itself be called localhost:{port}" in stranger.said
    assert f"add localhost:{port} to MLFLOW_SERVER_ALLOWED_HOSTS" in stranger.fix


def _wait(url: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not come up")
