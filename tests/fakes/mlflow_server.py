"""MLflow's real server on this machine, by the commands and the environment of the manifests in `k8s/`.

    with postgres.serve() as database, s3.serve() as store, mlflow_server.serve(database, store) as server:
        server.kill()
        server.start()

What the cluster gives is put in its place: the port, the host's name, the addresses of database and store,
and the secrets. All the rest is read from the manifests, so that the two can't drift apart.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from fakes.postgres import Postgres
from fakes.s3 import Store
from manifests.render import of_kind, render

OVERLAY = "overlays/dev"
ADMIN, PASSWORD = "admin", "a-password-of-tests"
START_S = 240
"""For a machine that is busy with other things."""


@dataclass
class Server:
    """A server that can be killed and started again at the same address."""

    command: list[str]
    environ: dict[str, str]
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client_environ(self) -> dict[str, str]:
        """What `clipflow` reads."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }

    def start(self, *, wait: bool = True) -> None:
        """Run it in a session of its own, as it has a parent and workers."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers as its readiness probe asks."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process
            assert self.process.poll() is None, self.log()
            with suppress(OSError), urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.2)
        raise AssertionError(f"MLflow did not start: {self.log()}")

    def kill(self) -> None:
        """kill -9 for the server and its workers."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]


@contextmanager
def serve(database: Postgres, store: Store) -> Iterator[Server]:
    """Migrate the database as the job does, write the file of the init container, and serve."""
    manifests = render(OVERLAY)
    (settings,) = [m["data"] for m in of_kind(manifests, "ConfigMap") if _is(m, "mlflow")]
    (deployment,) = [m for m in of_kind(manifests, "Deployment") if _is(m, "mlflow")]
    (job,) = [m for m in of_kind(manifests, "Job") if _is(m, "mlflow-migrate")]
    with tempfile.TemporaryDirectory() as place, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        folder = Path(place)
        here = {
            "MLFLOW_S3_ENDPOINT_URL": store.endpoint,
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        }
        secrets = {
            "clipflow-store": store.environ,
            "clipflow-mlflow-server": {
                "MLFLOW_BACKEND_STORE_URI": database.uri,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-tests",
                "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
                "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            },
        }
        given = {"mlflow": settings | here, **secrets}
        migrate, server = (m["spec"]["template"]["spec"] for m in (job, deployment))
        (main,) = server["containers"]
        for container in (
            *migrate["initContainers"],
            *migrate["containers"],
            *server["initContainers"],
        ):
            command, environ = _process(container, given, folder)
            done = subprocess.run(command, env=environ, cwd=place, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        command, environ = _process(main, given, folder)
        command += ["--host=127.0.0.1", f"--port={port}"]  # the last of two equal options holds
        running = Server(command, environ, folder, port)
        try:
            running.start()
            yield running
        finally:
            running.kill()


def _is(manifest: dict[str, Any], name: str) -> bool:
    return bool(manifest["metadata"]["name"] == name)


def _process(
    container: dict[str, Any], given: dict[str, dict[str, str]], folder: Path
) -> tuple[list[str], dict[str, str]]:
    """A container's command and environment; `given` are the config maps and secrets by name."""
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for source in container.get("envFrom", []):
        ((_, reference),) = source.items()
        environ |= given[reference["name"]]
    for variable in container.get("env", []):
        if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
            environ[variable["name"]] = given[reference["name"]][reference["key"]]
        else:
            environ[variable["name"]] = variable["value"]
    words = [*container["command"], *container.get("args", [])]
    for name, value in environ.items():
        words = [word.replace(f"$({name})", value) for word in words]

    def here(text: str) -> str:
        return text.replace("/auth/", f"{folder}/")

    return [here(word) for word in words], {
        name: str(folder) if value == "/tmp" else here(value) for name, value in environ.items()
    }
