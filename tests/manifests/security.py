"""Pod Security Standards, level `restricted`, and a read-only root file system.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manifests.render import Manifest, Pod, of_kind, pods

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
PROFILES = ("RuntimeDefault", "Localhost")
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}


def problems(manifests: list[Manifest]) -> list[str]:
    found = [problem for pod in pods(manifests) for problem in _pod(pod)]
    for namespace in of_kind(manifests, "Namespace"):
        labels = namespace["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            found.append(f"Namespace {namespace['metadata']['name']}: does not enforce restricted")
    return found


def _pod(pod: Pod) -> Iterator[str]:
    ours = pod.spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"{pod.where}: {key}"
    for volume in pod.spec.get("volumes", []):
        if kinds := set(volume) - {"name"} - VOLUMES:
            yield f"{pod.where}: volume {volume['name']} is a {kinds.pop()}"
    for sysctl in ours.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"{pod.where}: sysctl {sysctl['name']}"
    for container in pod.containers():
        for problem in _container(container, ours):
            yield f"{pod.where}, container {container['name']}: {problem}"


def _container(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    context = of_pod | own
    capabilities = own.get("capabilities", {})
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if context.get("runAsUser") == 0:
        yield "runs as user 0"
    if context.get("seccompProfile", {}).get("type") not in PROFILES:
        yield "has no seccomp profile"
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop ALL capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {capabilities['add']}"
    if own.get("procMount", "Default") != "Default":
        yield "has a procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "takes a port of the host"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "writes to its root file system"
