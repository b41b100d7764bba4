"""A Kubernetes API server over HTTP, and what Trainer, JobSet and Kueue do to a TrainJob in one.

The real server needs etcd and its controllers nodes, so neither can be had in a test. This one keeps
objects by group, namespace and plural; custom kinds are held to their CRDs in tests/schemas. As the real
one it prunes unknown fields without a word, unless a request says `fieldValidation=Strict`. Requests can be
made to fail as a cluster's do. Nothing runs by itself: a test plays the controllers through `Trainer`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import yaml

from manifests import schema

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Group and version, namespace, plural."""

CORE = (
    "namespaces",
    "nodes",
    "pods",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "serviceaccounts",
    "services",
)
ARGO = "argoproj.io/v1alpha1"
ACCESS = "authorization.k8s.io/v1"
VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.1",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "",
    "goVersion": "",
    "compiler": "gc",
    "platform": "linux/amd64",
}
TRAINER = "trainer.kubeflow.org/v1alpha1"
JOBSET = "jobset.sigs.k8s.io/jobset-name"
TOKEN = "a-token"
DROP, LOSE = "drop", "lose"
"""Faults: the connection ends instead of an answer; the request is heeded and then the connection ends."""


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    verb: str
    path: str
    query: dict[str, str]
    body: Any


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class KubernetesApi:
    """The server's state: what was asked, what exists, and how it answers."""

    requests: list[Request] = field(default_factory=list)
    objects: dict[Key, dict[str, Object]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    """What pods have written, each line with its time in front."""
    token: str = TOKEN
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """HTTP verbs and plurals (`pods`, `pods/log`) that the account has no right to."""
    faults: deque[int | str] = field(default_factory=deque)
    """What happens to the next requests: a status, DROP, LOSE, or nothing (0)."""
    is_away: bool = False
    """Every connection ends without an answer."""
    resources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Plurals by group and version, as discovery tells."""
    proxied: dict[str, Object | str] = field(default_factory=dict)
    """What services answer through the API server's proxy, by name and port."""
    absent: set[str] = field(default_factory=set)
    """Groups and versions whose kinds are not installed."""
    slow_deletion_s: float = 0
    """How long an object that is deleted in the foreground stays until its dependants are gone."""
    endpoint: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig file for this server."""
        path = folder / "kubeconfig"
        context = {"cluster": "here", "user": "me", "namespace": "team"}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [{"name": "here", "cluster": {"server": self.endpoint}}],
                    "contexts": [{"name": "here", "context": context}],
                    "users": [{"name": "me", "user": {"token": TOKEN}}],
                }
            )
        )
        return path

    def all(self, api_version: str, namespace: str, plural: str) -> dict[str, Object]:
        """Objects by name."""
        return self.objects.setdefault((api_version, namespace, plural), {})

    def put(self, api_version: str, namespace: str, plural: str, thing: Object) -> Object:
        """Store an object as the server does, with a uid and a time."""
        with self.lock:
            metadata = thing.setdefault("metadata", {})
            metadata.setdefault("namespace", namespace)
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", _now())
            self.all(api_version, namespace, plural)[metadata["name"]] = thing
        return thing

    def asked(self, verb: str, part: str) -> list[Request]:
        """Requests of a kind, in order."""
        return [r for r in list(self.requests) if r.verb == verb and part in r.path]

    def answer(self, request: Request, token: str) -> Object | str:
        """The body of the answer. Raises RefusedError."""
        if token != f"Bearer {self.token}":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        if request.path == "/version/":
            return VERSION
        words = request.path.strip("/").split("/")
        api_version = "/".join(words[1:3]) if words[0] == "apis" else words[1]
        rest = words[3 if words[0] == "apis" else 2 :]
        if not rest:
            return self._discover(api_version)
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name, part = (*rest, "", "")[:3]
        custom = api_version not in self.absent
        served = plural in CORE if api_version == "v1" else custom or api_version == ACCESS
        if not served:
            raise RefusedError(404, "", "404 page not found")
        what = f"{plural}/{part}".strip("/")
        if (request.verb, what) in self.forbidden:
            said = f'{what} is forbidden: User "me" cannot {request.verb} resource "{what}"'
            raise RefusedError(403, "Forbidden", said)
        held = self.all(api_version, namespace, plural)
        with self.lock:
            match request.verb, name, part:
                case "post", "", "" if api_version == ACCESS:
                    return self._review(request.body)
                case "get", _, "proxy" if name in self.proxied:
                    return self.proxied[name]
                case "post", "", "":
                    return self._create(request, (api_version, namespace, plural))
                case "get", "", "":
                    items = [o for o in held.values() if _wanted(o, request.query)]
                    return {"apiVersion": api_version, "kind": "List", "items": items}
            if name not in held:
                raise RefusedError(404, "NotFound", f'{plural} "{name}" not found')
            match request.verb, part:
                case "get", "":
                    return held[name]
                case "get", "log":
                    return self._log(held[name], request.query)
                case "delete", "":
                    return self._delete(held, name, request.body or request.query)
        raise RefusedError(405, "MethodNotAllowed", f"{request.verb} {request.path}")

    def _discover(self, api_version: str) -> Object:
        if api_version not in self.resources:
            raise RefusedError(404, "", "404 page not found")
        resources = [
            {"name": n, "kind": n, "namespaced": True, "singularName": "", "verbs": []}
            for n in self.resources[api_version]
        ]
        return {"kind": "APIResourceList", "groupVersion": api_version, "resources": resources}

    def _review(self, review: Object) -> Object:
        wanted = review["spec"]["resourceAttributes"]
        parts = filter(None, (wanted["resource"], wanted.get("subresource")))
        allowed = (wanted["verb"], "/".join(parts)) not in self.forbidden
        return review | {"status": {"allowed": allowed}}

    def _create(self, request: Request, key: Key) -> Object:
        thing: Object = request.body
        name = thing["metadata"]["name"]
        if name in self.all(*key):
            raise RefusedError(409, "AlreadyExists", f'{key[2]} "{name}" already exists')
        group, _, version = key[0].rpartition("/")
        definition = schema.definitions().get((group, thing["kind"]))
        if definition:
            _check(thing, definition[version], request.query.get("fieldValidation") == "Strict")
        return self.put(*key, thing)

    def _delete(self, held: dict[str, Object], name: str, options: Object) -> Object:
        thing = held[name]
        if options.get("propagationPolicy") != "Foreground" or not self.slow_deletion_s:
            return held.pop(name)
        if "deletionTimestamp" not in thing["metadata"]:
            thing["metadata"]["deletionTimestamp"] = _now()
            threading.Timer(self.slow_deletion_s, held.pop, (name, None)).start()
        return thing

    def _log(self, pod: Object, query: dict[str, str]) -> str:
        if len(pod["spec"]["containers"]) > 1 and "container" not in query:
            raise RefusedError(400, "BadRequest", "a container name must be specified")
        lines = self.logs.get(pod["metadata"]["name"], [])
        lines = lines[-int(query.get("tailLines", len(lines) or 1)) :]
        if query.get("timestamps", "").lower() != "true":
            lines = [line.partition(" ")[2] for line in lines]
        return "".join(f"{line}\n" for line in lines)


def _check(thing: Object, definition: Object, strict: bool) -> None:
    """Refuse what the schema does; unknown fields only if `strict`, else they are pruned."""
    for error in list(jsonschema.Draft202012Validator(definition).iter_errors(thing)):
        if error.validator != "additionalProperties":
            raise RefusedError(422, "Invalid", f"{error.json_path[2:]}: {error.message}")
        unknown = set(error.instance) - set(error.schema["properties"])
        if strict:
            where = f"{error.json_path[2:]}.{min(unknown)}".strip(".")
            raise RefusedError(400, "BadRequest", f'strict decoding error: unknown field "{where}"')
        for name in unknown:
            del error.instance[name]


def _wanted(thing: Object, query: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels", {})
    pairs = [pair.split("=", 1) for pair in query.get("labelSelector", "").split(",") if pair]
    return all(labels.get(key) == value for key, value in pairs)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Trainer:
    """What the controllers do to the one TrainJob of a namespace, when a test says so."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.generation = self.lines = 0

    @property
    def jobs(self) -> dict[str, Object]:
        return self.api.all(TRAINER, self.namespace, "trainjobs")

    @property
    def pods(self) -> dict[str, Object]:
        return self.api.all("v1", self.namespace, "pods")

    def wait(self, seconds: float = 120) -> Object:
        """The job, when there is one."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := [
                j for j in self.jobs.values() if not j["metadata"].get("deletionTimestamp")
            ]:
                return found[0]
            time.sleep(0.02)
        raise AssertionError("no TrainJob was created")

    def queue(self) -> None:
        """Kueue has no room (any more): pods are gone, the job waits."""
        self.wait()["spec"]["suspend"] = True
        self.pods.clear()
        self._condition("Suspended", "True", "Suspended", "TrainJob is suspended")

    def admit(self) -> None:
        """Kueue lets the job go on."""
        self.wait()["spec"]["suspend"] = False
        self._condition("Suspended", "False", "Resumed", "TrainJob is resumed")

    def start(self, *, waiting: str = "") -> None:
        """New pods, all of which run or wait for the same reason."""
        job = self.wait()
        self.generation += 1
        self.pods.clear()
        for number in range(job["spec"]["trainer"]["numNodes"]):
            name = f"{job['metadata']['name']}-node-0-{number}-{self.generation:05d}"
            status: Object = {"phase": "Running", "containerStatuses": [_container(running={})]}
            if waiting:
                why = {"type": "PodScheduled", "status": "False", "message": waiting}
                status = {"phase": "Pending", "conditions": [why]}
            self.api.put(
                "v1",
                self.namespace,
                "pods",
                {
                    "metadata": {"name": name, "labels": {JOBSET: job["metadata"]["name"]}},
                    "spec": {"containers": [{"name": "node"}, {"name": "istio-proxy"}]},
                    "status": status,
                },
            )

    def write(self, text: str, node: int = 0) -> None:
        """A line in the log of a node's pod."""
        self.lines += 1
        at = f"2030-01-01T00:00:00.{self.lines:09d}Z"
        self.api.logs.setdefault(self._pod(node)["metadata"]["name"], []).append(f"{at} {text}")

    def end_pod(self, node: int, exit_code: int, reason: str) -> None:
        """A pod's process ends."""
        self.lines += 1
        ended = {"exitCode": exit_code, "reason": reason}
        ended["finishedAt"] = f"2030-01-01T00:00:{self.lines:02d}Z"
        phase = "Failed" if exit_code else "Succeeded"
        self._pod(node)["status"] = {
            "phase": phase,
            "containerStatuses": [_container(terminated=ended)],
        }

    def preempt_pod(self, node: int) -> None:
        """The scheduler takes a node's pod away for one of higher priority."""
        self._pod(node)["status"] = {"phase": "Failed", "reason": "Preempted"}

    def fail(self, message: str = "jobset failed due to one or more job failures") -> None:
        self._condition("Failed", "True", "FailedJobs", message)

    def complete(self) -> None:
        self._condition("Complete", "True", "AllJobsCompleted", "jobset completed successfully")

    def _pod(self, node: int) -> Object:
        return next(pod for name, pod in self.pods.items() if f"-node-0-{node}-" in name)

    def _condition(self, kind: str, status: str, reason: str, message: str) -> None:
        job = self.wait()
        with self.api.lock:
            found = job.setdefault("status", {}).setdefault("conditions", [])
            found[:] = [c for c in found if c["type"] != kind]
            found.append({"type": kind, "status": status, "reason": reason, "message": message})


def _container(**state: Object) -> Object:
    return {
        "name": "node", "image": "gpu", "imageID": "", "ready": "running" in state,
        "restartCount": 0, "state": state,
    }  # fmt: skip


@contextmanager
def serve() -> Iterator[KubernetesApi]:
    """A server on a free port of this machine, until the block ends."""
    api = KubernetesApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits 40 ms for the word that its headers came

        def _handle(self) -> None:
            url = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            request = Request(self.command.lower(), url.path, dict(parse_qsl(url.query)), body)
            api.requests.append(request)
            fault = DROP if api.is_away else api.faults.popleft() if api.faults else 0
            if fault == DROP:
                self.close_connection = True
                return
            try:
                if fault and isinstance(fault, int):
                    raise RefusedError(fault, "InternalError", "etcdserver: leader changed")
                status, answer = 200, api.answer(request, self.headers.get("Authorization", ""))
            except RefusedError as refusal:
                status, answer = refusal.status, _status(refusal)
            if fault == LOSE:
                self.close_connection = True
                return
            self._send(status, answer)

        def _send(self, status: int, answer: Object | str) -> None:
            text = isinstance(answer, str)
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _handle  # noqa: N815

        def log_message(self, *args: Any) -> None:  # `requests` is the log
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


def _status(refusal: RefusedError) -> Object | str:
    if not refusal.reason:  # a path that is not served has no Status
        return f"{refusal}\n"
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": refusal.status,
        "reason": refusal.reason, "message": str(refusal),
    }  # fmt: skip
