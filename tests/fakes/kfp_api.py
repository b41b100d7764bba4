"""A Kubeflow Pipelines API server, as far as `kfp.Client` needs one to submit and watch runs.

The real server runs on Kubernetes with a database and an object store, so it can't be had in a
test. This one speaks the same REST API (v2beta1) over HTTP and refuses what the real one refuses:
pipeline specs that don't parse, unknown or missing parameters, values of the wrong type, unknown
experiments. It runs nothing: a run has succeeded as soon as it was created. What it can't prove is
that a cluster schedules the pods.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType, PipelineSpec, PlatformSpec

CREATED_AT = "2025-01-01T00:00:00Z"
PREFIX = "/apis/v2beta1"
EQUALS = 1
PYTHON_TYPES: dict[int, tuple[type, ...]] = {
    ParameterType.STRING: (str,),
    ParameterType.NUMBER_INTEGER: (int,),
    ParameterType.NUMBER_DOUBLE: (int, float),
    ParameterType.BOOLEAN: (bool,),
    ParameterType.LIST: (list,),
    ParameterType.STRUCT: (dict,),
}


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class KfpApi:
    """The server's state: what was asked, what exists, and how it answers."""

    requests: list[Request] = field(default_factory=list)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring_runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    token: str | None = None
    """If set, requests without this bearer token are answered 401."""
    broken_paths: tuple[str, ...] = ()
    """Requests whose path contains one of these are answered 500."""
    broken_status: int = 500
    """What they are answered."""
    script: list[dict[str, Any]] = field(default_factory=list)
    """What the next questions after a run find changed, in order."""
    login_page: bool = False
    """Every request is answered 200 with an HTML page, as a log-in proxy does."""
    endpoint: str = ""

    def posted(self, kind: str) -> list[Any]:
        """The bodies posted to `experiments`, `runs` or `recurringruns`, in order."""
        path = f"{PREFIX}/{kind}"
        return [r.body for r in self.requests if r.method == "POST" and r.path == path]

    def answer(self, request: Request, query: dict[str, list[str]]) -> dict[str, Any]:
        """The body of the answer. Raises RefusedError."""
        self.requests.append(request)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Unauthenticated: no valid token")
        if any(path in request.path for path in self.broken_paths):
            raise RefusedError(self.broken_status, "InternalServerError: the database is gone")
        match [request.method, *request.path.removeprefix(PREFIX).strip("/").split("/")]:
            case ["GET", "healthz"]:
                return {"multi_user": False}
            case ["GET", "experiments"]:
                return {"experiments": [e for e in self.experiments.values() if _wanted(e, query)]}
            case ["POST", "experiments"]:
                return self.create_experiment(request.body)
            case ["GET", "experiments", experiment_id]:
                return _found(self.experiments, experiment_id)
            case ["GET", "runs"]:
                return {"runs": list(self.runs.values())}
            case ["POST", "runs"]:
                return self._create_run(request.body)
            case ["POST", "recurringruns"]:
                return self._create_recurring_run(request.body)
            case ["GET", "runs", run_id]:
                found = _found(self.runs, run_id)
                if self.script:
                    found.update(self.script.pop(0))
                return found
        raise RefusedError(404, f"Not Found: {request.method} {request.path}")

    def create_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        """The new experiment. Raises RefusedError if its name is empty or taken."""
        if not body.get("display_name"):
            raise RefusedError(400, "Invalid input error: Experiment name is empty")
        if any(e["display_name"] == body["display_name"] for e in self.experiments.values()):
            raise RefusedError(409, "Already exist error: experiment")
        experiment_id = str(uuid.uuid4())
        self.experiments[experiment_id] = body | {
            "experiment_id": experiment_id,
            "created_at": CREATED_AT,
            "storage_state": "AVAILABLE",
        }
        return self.experiments[experiment_id]

    def _create_run(self, body: dict[str, Any]) -> dict[str, Any]:
        _found(self.experiments, body.get("experiment_id", ""))
        parameters = body.get("runtime_config", {}).get("parameters", {})
        _check_parameters(_parse(body.get("pipeline_spec")), parameters)
        run_id = str(uuid.uuid4())
        self.runs[run_id] = body | {
            "run_id": run_id,
            "created_at": CREATED_AT,
            "state": "SUCCEEDED",
            "storage_state": "AVAILABLE",
        }
        return self.runs[run_id]

    def _create_recurring_run(self, body: dict[str, Any]) -> dict[str, Any]:
        _found(self.experiments, body.get("experiment_id", ""))
        parameters = body.get("runtime_config", {}).get("parameters", {})
        _check_parameters(_parse(body.get("pipeline_spec")), parameters)
        if not body.get("display_name"):
            raise RefusedError(400, "Invalid input error: The recurring run name is empty")
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise RefusedError(400, "Invalid input error: max concurrency isn't between 1 and 10")
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron")
        if cron and len(cron.split()) != 6:
            raise RefusedError(400, f"Invalid input error: Schedule cron is not supported: {cron}")
        recurring_run_id = str(uuid.uuid4())
        self.recurring_runs[recurring_run_id] = body | {
            "recurring_run_id": recurring_run_id,
            "created_at": CREATED_AT,
            "status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED",
        }
        return self.recurring_runs[recurring_run_id]


def _found(things: dict[str, dict[str, Any]], thing_id: str) -> dict[str, Any]:
    if thing_id not in things:
        raise RefusedError(404, f"ResourceNotFoundError: {thing_id}")
    return things[thing_id]


def _wanted(experiment: dict[str, Any], query: dict[str, list[str]]) -> bool:
    wanted = json.loads(query["filter"][0])["predicates"] if "filter" in query else []
    assert all(p["operation"] == EQUALS for p in wanted)
    return all(experiment.get(p["key"]) == p["stringValue"] for p in wanted)


def _parse(body: Any) -> PipelineSpec:
    try:
        spec = body.get("pipeline_spec", body)
        json_format.ParseDict(body.get("platform_spec", {}), PlatformSpec())
        return json_format.ParseDict(spec, PipelineSpec())
    except (AttributeError, json_format.ParseError) as error:
        raise RefusedError(400, f"Invalid input error: pipeline spec: {error}") from error


def _check_parameters(spec: PipelineSpec, values: dict[str, Any]) -> None:
    known = spec.root.input_definitions.parameters
    for name, value in values.items():
        if name not in known:
            raise RefusedError(400, f"Invalid input error: unknown parameter {name}")
        if not isinstance(value, PYTHON_TYPES[known[name].parameter_type]):
            raise RefusedError(400, f"Invalid input error: parameter {name}: type of {value!r}")
    for name, parameter in known.items():
        given = name in values or parameter.HasField("default_value") or parameter.is_optional
        if not given:
            raise RefusedError(400, f"Invalid input error: parameter {name} is required")


@contextmanager
def serve() -> Iterator[KfpApi]:
    """A server on a free port of this machine, until the block ends."""
    api = KfpApi()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            url = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, url.path, headers, body)
            try:
                status, answer = 200, api.answer(request, parse_qs(url.query))
            except RefusedError as refusal:
                status, answer = refusal.status, {"error": str(refusal), "code": 2}
            data = b"<html>Log in</html>" if api.login_page else json.dumps(answer).encode()
            self.send_response(200 if api.login_page else status)
            self.send_header("Content-Type", "text/html" if api.login_page else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _handle  # noqa: N815

        def log_message(self, *args: Any) -> None:  # `requests` is the log
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
