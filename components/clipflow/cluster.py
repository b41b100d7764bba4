"""Whether the objects that a run refers to are in its namespace.

They are looked at before anything is sent, for a pod that lacks a secret or a volume waits without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from clipflow.errors import ClusterError

KINDS = {
    "Secret": "read_namespaced_secret",
    "ConfigMap": "read_namespaced_config_map",
    "PersistentVolumeClaim": "read_namespaced_persistent_volume_claim",
}
TIMEOUT_S = 10
HOW_TO_MAKE = "apply k8s/ or make it with 'kubectl create' in this namespace"


@dataclass(frozen=True, order=True)
class Need:
    """An object that tasks refer to, with the keys that they read of it."""

    kind: str
    name: str
    keys: tuple[str, ...] = ()


def check(needs: Iterable[Need], namespace: str) -> str | None:
    """Raise ClusterError if something that the run needs is not in the namespace.

    Returns what could not be looked at and why, if anything; None if everything is there.
    """
    if not configured():
        return "no Kubernetes access is configured (KUBECONFIG)"
    with client.ApiClient() as api_client:
        api_client.configuration.retries = False
        core = client.CoreV1Api(api_client)
        where = f"{api_client.configuration.host}: namespace '{namespace}'"
        hidden = [] if _there(core, where, "read_namespace", namespace) else ["the namespace"]
        lacking = []
        for need in needs:
            found = _there(core, where, KINDS[need.kind], need.name, namespace)
            if found is None:
                hidden.append(f"{need.kind} {need.name}")
            elif found is False:
                lacking.append(f"{need.kind} {need.name}")
            elif missing := sorted(set(need.keys) - set(getattr(found, "data", None) or {})):
                lacking.append(f"{', '.join(missing)} in {need.kind} {need.name}")
    if lacking:
        raise ClusterError(f"{where}: lacks {'; '.join(lacking)}; {HOW_TO_MAKE}")
    return f"not allowed to read {', '.join(hidden)}" if hidden else None


def configured() -> bool:
    """Whether a kubeconfig is there, or this is a pod with a service account's token."""
    for load in (config.load_kube_config, config.load_incluster_config):
        try:
            load()
            return True
        except (config.ConfigException, OSError):
            continue
    return False


def _there(core: Any, where: str, read: str, *names: str) -> Any:
    """The object; False if there is none, None if it may not be read. Raises ClusterError."""
    try:
        return getattr(core, read)(*names, _request_timeout=TIMEOUT_S)
    except client.ApiException as error:
        if error.status == 403:
            return None
        if error.status == 404 and len(names) == 2:
            return False
        if error.status == 404:
            raise ClusterError(
                f"{where}: no such namespace; run 'kubectl create namespace {names[0]}' or set --namespace"
            ) from error
        advice = "log in again" if error.status == 401 else "see 'kubectl get --raw /readyz'"
        raise ClusterError(
            f"{where}: Kubernetes answered {error.status} {error.reason}; {advice}"
        ) from error
    except HTTPError as error:
        raise ClusterError(
            f"{where}: can't reach Kubernetes ({getattr(error, 'reason', None) or error});"
            " check the current context, or set KUBECONFIG=/dev/null to leave these checks out"
        ) from error
