"""What we ask of manifests beyond being valid. Each check returns its findings, none if all is well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from manifests.render import Manifest, name_of, namespace_of, of_kind, pods

SECRETS = {
    "clipflow-store": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "clipflow-mlflow": {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"},
    "clipflow-mlflow-server": {
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "MLFLOW_AUTH_ADMIN_USERNAME",
        "MLFLOW_AUTH_ADMIN_PASSWORD",
        "POSTGRES_PASSWORD",  # only where Postgres is inside
    },
    "clipflow-llm": {"OPENAI_API_KEY"},
    "clipflow-hub": {"HF_TOKEN"},
    "mlflow-tls": set(),  # of the ingress; from cert-manager, say
}
"""Secrets that are made by hand or by External Secrets, as README says, and their keys."""
FOREIGN = {"pipeline-runner"}
"""Service accounts that Kubeflow Pipelines brings."""
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY", re.IGNORECASE)
CREDENTIALS = re.compile(r"://[^/@\s:]+:[^/@\s]+@")


def images(manifests: list[Manifest], *, pinned: bool) -> list[str]:
    """Images have a digest, or where `pinned` is false at least a tag that is not `latest`."""
    found = []
    for pod in pods(manifests):
        for container in pod.containers():
            image = container["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            is_digest = bool(re.search(r"@sha256:[0-9a-f]{64}$", image))
            if not is_digest and (pinned or not tag or tag == "latest"):
                found.append(f"{pod.where}, container {container['name']}: image {image}")
    return found


def resources(manifests: list[Manifest]) -> list[str]:
    """Containers ask for CPU and memory and have a limit of memory.

    A limit of CPU is left to each: it slows loaders and servers down while cores are idle.
    """
    found = []
    for pod in pods(manifests):
        for container in pod.containers():
            given = container.get("resources", {})
            for kind, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
                if name not in given.get(kind, {}):
                    found.append(f"{pod.where}, container {container['name']}: no {kind}.{name}")
    return found


def access(manifests: list[Manifest]) -> list[str]:
    """Roles are of one namespace and name what they allow."""
    found = [f"{name_of(m)}: of the whole cluster" for m in of_kind(manifests, *_CLUSTER_WIDE)]
    for role in of_kind(manifests, "Role"):
        for rule in role["rules"]:
            if any("*" in rule.get(key, []) for key in ("apiGroups", "resources", "verbs")):
                found.append(f"{name_of(role)}: a wildcard in {rule}")
            if "secrets" in rule["resources"] and not rule.get("resourceNames"):
                found.append(f"{name_of(role)}: all secrets")
            if set(rule["verbs"]) & {"bind", "escalate", "impersonate"}:
                found.append(f"{name_of(role)}: can gain rights by {rule['verbs']}")
    for pod in pods(manifests):
        if pod.spec.get("serviceAccountName", "default") == "default":
            found.append(f"{pod.where}: no service account of its own")
        if pod.spec.get("automountServiceAccountToken") is not False:
            found.append(f"{pod.where}: has a token of Kubernetes, which nothing here needs")
    return found


_CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding")


def secrets(manifests: list[Manifest]) -> list[str]:
    """No value of a secret is in a manifest."""
    found = [f"{name_of(m)}: a secret in git" for m in of_kind(manifests, "Secret")]
    for config in of_kind(manifests, "ConfigMap"):
        found += [f"{name_of(config)}: {k}" for k in config["data"] if SECRET_NAME.search(k)]
    for pod in pods(manifests):
        for container in pod.containers():
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]) and "value" in variable:
                    found.append(f"{pod.where}: the value of {variable['name']}")
    for manifest in manifests:
        if any(CREDENTIALS.search(text) for text in _texts(manifest)):
            found.append(f"{name_of(manifest)}: a URL with a password")
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def references(manifests: list[Manifest]) -> list[str]:
    """What an object names is there, in its namespace, or is among SECRETS or FOREIGN."""
    there = {(m["kind"], namespace_of(m), m["metadata"]["name"]) for m in manifests}
    found = []
    for source, namespace, kind, name in _references(manifests):
        if kind == "Secret":
            known = name in SECRETS
        elif kind == "ServiceAccount" and name in FOREIGN:
            known = True
        else:
            known = (kind, namespace, name) in there
        if not known:
            found.append(f"{source}: {kind} {name} is not in namespace '{namespace}'")
    return found + _keys(manifests)


def _references(manifests: list[Manifest]) -> Iterator[tuple[str, str, str, str]]:
    for pod in pods(manifests):
        for kind, name in _of_pod(pod.spec):
            yield pod.where, "" if kind == "PriorityClass" else pod.namespace, kind, name
    for manifest in manifests:
        source, own, spec = name_of(manifest), namespace_of(manifest), manifest.get("spec", {})
        match manifest["kind"]:
            case "RoleBinding":
                yield source, own, manifest["roleRef"]["kind"], manifest["roleRef"]["name"]
                for subject in manifest["subjects"]:
                    yield source, subject.get("namespace", own), subject["kind"], subject["name"]
            case "Ingress":
                for tls in spec["tls"]:
                    yield source, own, "Secret", tls["secretName"]
                for rule in spec["rules"]:
                    for path in rule["http"]["paths"]:
                        yield source, own, "Service", path["backend"]["service"]["name"]
            case "HorizontalPodAutoscaler":
                yield source, own, spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]
            case "StatefulSet":
                yield source, own, "Service", spec["serviceName"]
            case "LocalQueue":
                yield source, "", "ClusterQueue", spec["clusterQueue"]
            case "ClusterQueue":
                for group in spec["resourceGroups"]:
                    for flavor in group["flavors"]:
                        yield source, "", "ResourceFlavor", flavor["name"]


def _of_pod(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", spec.get("serviceAccountName", "default")
    if "priorityClassName" in spec:
        yield "PriorityClass", spec["priorityClassName"]
    for volume in spec.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        for item in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in item:
                    yield kind, item[key]["name"]
        for variable in container.get("env", []):
            for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if key in variable.get("valueFrom", {}):
                    yield kind, variable["valueFrom"][key]["name"]


def _keys(manifests: list[Manifest]) -> list[str]:
    """Keys of secrets that are not known, volumes and ports that are mounted or probed but not there."""
    found = []
    for pod in pods(manifests):
        claims = {
            claim["metadata"]["name"]
            for m in manifests
            if name_of(m) == pod.where
            for claim in m["spec"].get("volumeClaimTemplates", [])
        }
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])} | claims
        mounted = set()
        for container in pod.containers():
            mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
            for variable in container.get("env", []):
                ref = variable.get("valueFrom", {}).get("secretKeyRef")
                if ref and ref["key"] not in SECRETS.get(ref["name"], set()):
                    found.append(f"{pod.where}: no key {ref['key']} in Secret {ref['name']}")
            names = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in names:
                    found.append(f"{pod.where}: {probe} asks port {port}, which is not there")
        if mounted != volumes:
            found.append(f"{pod.where}: volumes {sorted(volumes)}, mounted {sorted(mounted)}")
    return found
