"""The servers that runs talk to: Kubeflow Pipelines, MLflow, the object store, the language model.

They are asked from here with the addresses and secrets of the runs' namespace. A name that only the cluster
knows is not checked: a port can be forwarded, or this be run in the cluster.
"""

from __future__ import annotations

import functools
import importlib.metadata
import socket
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests  # type: ignore[import-untyped]

from clipflow.doctor.kubernetes_api import look
from clipflow.findings import Finding, ok, problem, unchecked
from clipflow.objects import ADVICE, RETRY, SCHEME

TIMEOUT_S = 10
HEALTH = "apis/v2beta1/healthz"


def pipelines(api: Any, endpoint: str | None, token: str | None, namespace: str) -> Finding:
    """Kubeflow Pipelines, at the endpoint or through the Kubernetes API, as the `kfp` command asks it."""
    what = "Kubeflow Pipelines"
    if endpoint:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = _get(what, f"{endpoint.rstrip('/')}/{HEALTH}", headers, "KFP_ENDPOINT")
        if isinstance(answer, Finding):
            return answer
        if answer.status_code in (401, 403):
            fix = "set KFP_EXISTING_TOKEN to a token of yours"
            return problem(what, f"{endpoint} answered {answer.status_code}", fix)
        where, health = endpoint, _json(answer)
    elif api is None:
        return unchecked(what, "no address", "set KFP_ENDPOINT or KUBECONFIG")
    else:
        fix = "set KFP_ENDPOINT, or --namespace to that of Kubeflow Pipelines"
        path = f"/api/v1/namespaces/{namespace}/services/ml-pipeline:http/proxy/{HEALTH}"
        health = look(what, fix, functools.partial(_get_json, api), path)
        if isinstance(health, Finding):
            return health
        where = "the cluster"
    if not isinstance(health, dict):
        fix = "check KFP_ENDPOINT and KFP_EXISTING_TOKEN: is it a login page?"
        return problem(what, f"{where} answers, but not as Kubeflow Pipelines does", fix)
    theirs = str(health.get("tag_name") or "version unknown")
    ours = importlib.metadata.version("kfp")
    if _minor(theirs) and _minor(theirs) < _minor(ours):
        return unchecked(
            what,
            f"{theirs} at {where} is older than kfp {ours} here, and drops what it doesn't know",
            "upgrade the server, or see that pods of a first run have their GPUs and volumes",
        )
    return ok(what, f"{theirs} at {where}")


def mlflow(environ: Mapping[str, str]) -> Finding:
    """MLflow answers a query, with the account of the runs and under its name."""
    what = "MLflow"
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith("http"):
        return unchecked(
            what, "no address", "make deploy OVERLAY=dev (or prod), or pass --mlflow URL"
        )
    if away := _unresolved(what, uri, "mlflow", 5000, "--mlflow http://localhost:5000"):
        return away
    user, password = (environ.get(f"MLFLOW_TRACKING_{key}") for key in ("USERNAME", "PASSWORD"))
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
    auth = (user, password) if user and password else None
    answer = _get(what, url, {}, "kubectl logs -n clipflow deploy/mlflow", auth)
    if isinstance(answer, Finding):
        return answer
    said = " ".join(answer.text.split())[:120]
    if answer.status_code == 403 and "Invalid Host" in answer.text:
        return problem(
            what,
            f"{uri} answered 403: it doesn't let itself be called {urlsplit(uri).netloc}",
            f"add {urlsplit(uri).netloc} to MLFLOW_SERVER_ALLOWED_HOSTS in ConfigMap mlflow, then"
            " kubectl rollout restart -n clipflow deploy/mlflow",
        )
    if answer.status_code in (401, 403):
        fix = "make the account in MLflow, or put its password into Secret clipflow-mlflow"
        who = f"the account {user}" if auth else "asking without an account"
        return problem(what, f"{uri} answered {answer.status_code} to {who}", fix)
    if not answer.ok:
        fix = "kubectl logs -n clipflow deploy/mlflow"
        return problem(what, f"{uri} answered {answer.status_code} {said}", fix)
    version = _get(what, f"{uri.rstrip('/')}/version", {}, "", auth)
    shown = "" if isinstance(version, Finding) or not version.ok else f"{version.text.strip()} "
    return ok(what, f"{shown}at {uri}")


def object_store(environ: Mapping[str, str]) -> Finding:
    """A tiny object can be put, listed and deleted where runs put their artifacts."""
    from botocore.exceptions import BotoCoreError, ClientError

    what = "Object store"
    url = environ.get("CLIPFLOW_STORE", "")
    if not url.startswith(SCHEME):
        return unchecked(what, "no address", "set CLIPFLOW_STORE in ConfigMap clipflow")
    endpoint = environ.get("AWS_ENDPOINT_URL_S3")
    if endpoint and (
        away := _unresolved(what, endpoint, "store", 9000, "--store http://localhost:9000")
    ):
        return away
    key, secret = (environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if not (key and secret):
        return unchecked(what, "no keys could be read", "see Secret clipflow-store above")
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    name = f"{prefix.rstrip('/')}/doctor-{uuid.uuid4().hex}"
    where = f"{url} at {endpoint}" if endpoint else url
    place = {"Bucket": bucket, "Key": name}
    objects = _client(endpoint, key, secret, environ.get("AWS_DEFAULT_REGION"))
    try:
        objects.put_object(**place, Body=b"clipflow doctor")
        objects.list_objects_v2(Bucket=bucket, Prefix=name)
        objects.delete_object(**place)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        return problem(
            what,
            f"{where} answered {code} to {error.operation_name}",
            ADVICE.get(code, RETRY),
        )
    except BotoCoreError as error:
        reason = " ".join(str(error).split())
        return problem(what, f"can't use {where}: {reason}", "check AWS_ENDPOINT_URL_S3")
    return ok(what, f"{where}: put, listed and deleted an object")


def language_model(environ: Mapping[str, str]) -> Finding:
    """The server of the language model lists its models; only rewriting by a server needs it."""
    what = "Language model"
    url = environ.get("OPENAI_BASE_URL", "")
    if not url:
        return ok(what, "no OPENAI_BASE_URL; only server generators need one")
    if away := _unresolved(what, url, "llm", 8000, "a run in the cluster"):
        return away
    key = environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    logs = "kubectl logs -n clipflow deploy/llm"
    answer = _get(what, f"{url.rstrip('/')}/models", headers, logs)
    if isinstance(answer, Finding):
        return answer
    if answer.status_code in (401, 403):
        return problem(what, f"{url} answered {answer.status_code}", "set Secret clipflow-llm anew")
    if not answer.ok:
        return problem(what, f"{url} answered {answer.status_code}", logs)
    return ok(what, f"at {url}")


def _client(endpoint: str | None, key: str, secret: str, region: str | None) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        s3={"addressing_style": "path"} if endpoint else {},
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
        config=config,
    )


def _get(what: str, url: str, headers: Mapping[str, str], fix: str, auth: Any = None) -> Any:
    """The answer, or the Finding that there is none."""
    try:
        return requests.get(url, headers=headers, auth=auth, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        reason = " ".join(str(error).split())[:160]
        return problem(what, f"no answer from {url} ({reason})", f"check {fix}")


def _get_json(api: Any, path: str, **options: Any) -> Any:
    """What the Kubernetes API answers for a path of none of its own objects."""
    how = {"auth_settings": ["BearerToken"], "_return_http_data_only": True}
    return api.call_api(path, "GET", response_type="object", **how, **options)


def _json(answer: Any) -> Any:
    """The body as JSON; None if it is none, or a refusal."""
    try:
        return answer.json() if answer.ok else None
    except ValueError:
        return None


def _unresolved(what: str, url: str, service: str, port: int, then: str) -> Finding | None:
    """The Finding that only the cluster knows an address; None if it is known here."""
    parts = urlsplit(url)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or 443)
    except OSError:
        forward = f"kubectl port-forward -n clipflow svc/{service} {port} and {then}"
        return unchecked(what, f"{parts.hostname} is known in the cluster only", forward)
    return None


def _minor(version: str) -> tuple[int, ...]:
    """(major, minor) of a version, or nothing if it is none."""
    parts = version.lstrip("v").split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()
