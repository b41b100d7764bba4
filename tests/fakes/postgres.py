"""A real PostgreSQL server on loopback, in a folder of its own, gone at the end.

    with postgres.serve() as server:
        os.environ["MLFLOW_BACKEND_STORE_URI"] = server.uri

Needs the server's programs: `apt-get install postgresql`, or any that are in PATH. Durability on a power
cut is turned off, which a kill doesn't tell.
"""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

USER, PASSWORD, DATABASE = "mlflow", "100%-a@secret", "mlflow"
"""With signs that an address must quote."""
QUOTED = "100%25-a%40secret"
START_S = 60


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int

    @property
    def uri(self) -> str:
        """The address as MLflow takes it."""
        return f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/{DATABASE}"


def programs() -> Path | None:
    """The folder of initdb and postgres, which Debian keeps out of PATH; None if there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@contextmanager
def serve() -> Iterator[Postgres]:
    """An empty database `mlflow`."""
    folder = programs()
    assert folder, "no PostgreSQL server here: apt-get install postgresql"
    # It refuses to run as root.
    user = "nobody" if getpass.getuser() == "root" else None
    with tempfile.TemporaryDirectory() as place, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data, password = Path(place) / "data", Path(place) / "password"
        data.mkdir()
        password.write_text(PASSWORD)
        if user:
            for path in (place, data, password):
                shutil.chown(path, user)
        initdb = [folder / "initdb", "--no-sync", "--auth=scram-sha-256", "--encoding=UTF8",
                  f"--username={USER}", f"--pwfile={password}", data]  # fmt: skip
        subprocess.run(initdb, user=user, cwd=place, check=True, capture_output=True)
        command = [folder / "postgres", "-F", "-D", data, "-p", str(port),
                   "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]  # fmt: skip
        with (
            (Path(place) / "log").open("w") as log,
            subprocess.Popen(command, user=user, cwd=place, stderr=log) as process,
        ):
            try:
                _make_database(port)
                yield Postgres(port)
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


def _make_database(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with psycopg.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD,
                                 dbname="postgres", autocommit=True) as connection:  # fmt: skip
                connection.execute(f'CREATE DATABASE "{DATABASE}"')
                return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
