"""Servers are asked as runs ask them: an S3-speaking store, and HTTP for the rest; e2e has MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from clipflow.doctor import registry, services
from fakes import s3

NOWHERE = "http://127.0.0.1:9"
Answers = dict[str, tuple[int, dict[str, str], object]]


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """A server with an answer for each path: status, headers, body. With a token, that of `token PATH`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if self.headers.get("Authorization") == "Bearer a-token":
                path = f"token {path}" if f"token {path}" in answers else path
            status, headers, body = answers.get(path, (404, {}, None))
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("token", "answer", "mark", "said"),
    [
        (None, (200, {}, {"tag_name": "99.1.0"}), "ok", "99.1.0 at"),
        (None, (200, {}, {}), "ok", "version unknown at"),
        (None, (401, {}, {}), "problem", "answered 401"),
        ("a-token", (401, {}, {}), "ok", "99.2.0 at"),
        (None, (200, {}, "<html>Log in</html>"), "problem", "not as Kubeflow Pipelines does"),
        (None, (503, {}, {}), "problem", "not as Kubeflow Pipelines does"),
    ],
)
def test_pipelines_at_an_endpoint(
    token: str | None, answer: tuple[int, dict[str, str], object], mark: str, said: str
) -> None:
    path = "/apis/v2beta1/healthz"
    signed_in = (200, {}, {"tag_name": "99.2.0"})
    with answering({path: answer, f"token {path}": signed_in}) as url:
        found = services.pipelines(None, url, token, "kubeflow")
    assert found.mark == mark
    assert said in found.said


def test_no_server_at_an_address() -> None:
    assert services.pipelines(None, NOWHERE, None, "kubeflow").mark == "problem"
    assert services.mlflow({"MLFLOW_TRACKING_URI": NOWHERE}).mark == "problem"
    assert services.language_model({"OPENAI_BASE_URL": NOWHERE}).mark == "problem"


def test_language_model() -> None:
    answers: Answers = {"/v1/models": (401, {}, {}), "token /v1/models": (200, {}, {"data": []})}
    with answering(answers) as url:
        environ = {"OPENAI_BASE_URL": f"{url}/v1"}
        assert "answered 401" in services.language_model(environ).said
        assert services.language_model(environ | {"OPENAI_API_KEY": "a-token"}).mark == "ok"
    assert services.language_model({}).mark == "ok"


@pytest.fixture(scope="module")
def store() -> Iterator[s3.Store]:
    with s3.serve() as running:
        running.make_bucket("clipflow")
        yield running


def test_store(store: s3.Store) -> None:
    environ = store.environ | {"CLIPFLOW_STORE": "s3://clipflow/artifacts"}
    found = services.object_store(environ)
    assert found.mark == "ok", found
    assert store.objects("clipflow") == {}
    wrong = services.object_store(environ | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert "answered SignatureDoesNotMatch to PutObject" in wrong.said
    assert "check AWS_ACCESS_KEY_ID" in wrong.fix
    absent = services.object_store(environ | {"CLIPFLOW_STORE": "s3://no-such-bucket/artifacts"})
    assert "answered NoSuchBucket" in absent.said
    away = services.object_store(environ | {"AWS_ENDPOINT_URL_S3": NOWHERE})
    assert "can't use s3://clipflow/artifacts at http://127.0.0.1:9" in away.said
    keyless = services.object_store({k: v for k, v in environ.items() if "KEY" not in k})
    assert keyless.mark == "not checked"
    assert services.object_store({}).mark == "not checked"


DIGEST = "sha256:" + "1" * 64
MANIFEST = f"/v2/team/clipflow-cpu/manifests/{DIGEST}"


def image(url: str, reference: str = f"@{DIGEST}") -> str:
    return f"{url.removeprefix('http://')}/team/clipflow-cpu{reference}"


def test_images_of_an_open_registry() -> None:
    tag = "/v2/team/clipflow-cpu/manifests/v1"
    with answering({MANIFEST: (200, {}, {}), tag: (200, {}, {})}) as url:
        assert registry.pullable(image(url)).mark == "ok"
        tagged = registry.pullable(image(url, ":v1"))
        absent = registry.pullable(image(url, "@sha256:" + "2" * 64))
    assert tagged.said == "is there, but named by a tag, which may change"
    assert absent.said.endswith("doesn't have it")
    assert "make push" in absent.fix


@pytest.mark.parametrize(("given", "mark"), [(200, "ok"), (401, "not checked")])
def test_images_of_a_registry_that_gives_tokens(given: int, mark: str) -> None:
    answers: Answers = {"/token": (given, {}, {"token": "a-token"})}
    with answering(answers) as url:
        challenge = f'Bearer realm="{url}/token",service="r",scope="repository:team/x:pull"'
        answers[MANIFEST] = (401, {"WWW-Authenticate": challenge}, None)
        answers[f"token {MANIFEST}"] = (200, {}, None)
        assert registry.pullable(image(url)).mark == mark


def test_images_that_no_registry_has() -> None:
    found = registry.pullable("clipflow-cpu:dev")
    assert found.mark == "not checked"
    assert "kind load docker-image clipflow-cpu:dev" in found.fix
    assert registry.pullable("127.0.0.1:9/team/clipflow-cpu:dev").mark == "problem"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("clipflow-cpu:dev", ("", "clipflow-cpu:dev", "")),
        ("team/x", ("registry-1.docker.io", "team/x", "latest")),
        ("docker.io/team/x:1", ("registry-1.docker.io", "team/x", "1")),
        ("ghcr.io/a/b/x:1@sha256:2", ("ghcr.io", "a/b/x", "sha256:2")),
        ("localhost:5001/x", ("localhost:5001", "x", "latest")),
    ],
)
def test_names_of_images(name: str, parts: tuple[str, str, str]) -> None:
    assert registry._parts(name) == parts
