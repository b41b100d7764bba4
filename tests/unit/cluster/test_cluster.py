"""What a run needs is looked for over HTTP, and each lack is one line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from clipflow import cluster
from clipflow.cluster import Need
from clipflow.errors import ClusterError

NEEDS = [Need("Secret", "clipflow-store", ("A", "B")), Need("PersistentVolumeClaim", "scratch")]
SECRET = "/api/v1/namespaces/team/secrets/clipflow-store"
COMPLETE = {
    "/api/v1/namespaces/team": {},
    SECRET: {"data": {"A": "eA==", "B": "eA=="}},
    "/api/v1/namespaces/team/persistentvolumeclaims/scratch": {},
}

Objects = dict[str, object]


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    """What the server has: a body, or the status of a refusal; all else is 404."""
    held: Objects = dict(COMPLETE)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = held.get(self.path, 404)
            refused = isinstance(answer, int)
            data = json.dumps({} if refused else answer).encode()
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _configure(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
        yield held
        server.shutdown()


def _configure(host: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    file = folder / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [context],
                "clusters": [{"name": "c", "cluster": {"server": host}}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    # The library reads KUBECONFIG when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))


def test_all_there(objects: Objects) -> None:
    assert cluster.check(NEEDS, "team") is None


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        ("/api/v1/namespaces/team", 404, "no such namespace; run 'kubectl create namespace team'"),
        (SECRET, 404, "lacks Secret clipflow-store; apply k8s/"),
        (SECRET, {"data": {"A": "eA=="}}, "lacks B in Secret clipflow-store; apply k8s/"),
        (SECRET, 401, "Kubernetes answered 401"),
        (SECRET, 500, "Kubernetes answered 500"),
    ],
)
def test_a_lack_is_one_line(objects: Objects, path: str, answer: object, expected: str) -> None:
    objects[path] = answer
    with pytest.raises(ClusterError) as error:
        cluster.check(NEEDS, "team")
    assert "namespace 'team'" in str(error.value)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_what_may_not_be_read_is_said(objects: Objects) -> None:
    objects[SECRET] = 403
    assert cluster.check(NEEDS, "team") == "not allowed to read Secret clipflow-store"


def test_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _configure("http://127.0.0.1:9", tmp_path, monkeypatch)
    with pytest.raises(ClusterError, match=r"can't reach Kubernetes .*KUBECONFIG=/dev/null"):
        cluster.check(NEEDS, "team")
