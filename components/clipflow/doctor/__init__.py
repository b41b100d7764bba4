"""`clipflow doctor`: whether a cluster has what runs need, each finding with its fix.

Nothing is changed but for one tiny object in the store, which is deleted again. Secrets' values are used to
ask the servers and never shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from clipflow import cluster, image
from clipflow.doctor import kubernetes_api, objects, registry, services
from clipflow.findings import Finding, problem


def examine(
    namespace: str,
    *,
    service_account: str,
    endpoint: str | None = None,
    token: str | None = None,
    mlflow: str | None = None,
    store: str | None = None,
) -> Iterator[Finding]:
    """Everything that can be looked at from here, in the order in which it would be mended.

    `endpoint` and `token` are for Kubeflow Pipelines; `mlflow` and `store` are addresses to use instead of
    those in the namespace's ConfigMap.
    """
    environ: dict[str, str] = {}
    api = kubernetes_api.connect() if cluster.configured() else None
    if api:
        yield from _cluster(api, namespace, service_account, environ)
    else:
        yield problem("Kubernetes", "no access is configured", "set KUBECONFIG")
    yield services.pipelines(api, endpoint, token, namespace)
    # In a pod of a run, which may read neither, they are in its own environment.
    environ = environ or dict(os.environ)
    given = {"MLFLOW_TRACKING_URI": mlflow, "AWS_ENDPOINT_URL_S3": store}
    environ |= {name: address for name, address in given.items() if address}
    yield services.mlflow(environ)
    yield services.object_store(environ)
    yield services.language_model(environ)
    for name in (image.CPU_IMAGE, image.GPU_IMAGE):
        yield registry.pullable(name)


def _cluster(
    api: Any, namespace: str, service_account: str, environ: dict[str, str]
) -> Iterator[Finding]:
    yield (reached := objects.version(api))
    if reached.mark == "problem":
        return
    yield from objects.kinds(api)
    yield from objects.servers(api)
    yield (there := objects.namespace(api, namespace))
    if there.mark != "problem":
        yield from objects.of_runs(api, namespace, environ)
        yield objects.rights(api, namespace, service_account)
    yield from objects.nodes(api)
