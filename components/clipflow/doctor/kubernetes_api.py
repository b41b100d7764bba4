"""Asking the Kubernetes API: what comes back is an object, or the finding that it can't be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubernetes import client
from urllib3.exceptions import HTTPError

from clipflow.findings import problem, unchecked

TIMEOUT_S = 10
ABSENT = "is not there"


def connect() -> Any:
    """A client of the configured cluster that asks once."""
    configuration = client.Configuration.get_default_copy()
    configuration.retries = False
    return client.ApiClient(configuration)


def look(what: str, fix: str, call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or a Finding: `fix` if the thing is not there."""
    try:
        return call(*args, _request_timeout=TIMEOUT_S)
    except client.ApiException as error:
        if error.status == 404:
            return problem(what, ABSENT, fix)
        if error.status == 403:
            return unchecked(what, "no right to read it", "ask with an account that may")
        advice = (
            "log in again" if error.status == 401 else "see 'kubectl get --raw /readyz?verbose'"
        )
        return problem(what, f"Kubernetes answered {error.status} {error.reason}", advice)
    except HTTPError as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        return problem(
            what,
            f"can't reach Kubernetes ({reason})",
            "check 'kubectl cluster-info' and KUBECONFIG",
        )
