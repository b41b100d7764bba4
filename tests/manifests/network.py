"""NetworkPolicies as a cluster applies them: who reaches whom, and which rules nobody uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manifests.render import Manifest, name_of, namespace_of, of_kind, pods

KFP_TASK = {"pipelines.kubeflow.org/v2_component": "true"}
"""The label that Kubeflow Pipelines gives every pod of a run."""
FOREIGN = {
    "kube-system": {53},  # name service
    "kubeflow": {8080, 8333, 8887, 8888, 9000},  # metadata, store, API server
    "ingress-nginx": set(),
    "monitoring": set(),
}
"""Namespaces of others that policies may name, and the ports that they offer."""


@dataclass(frozen=True)
class Peer:
    """A pod as policies see it."""

    name: str
    namespace: str
    labels: dict[str, str]
    ports: set[int] = field(default_factory=set)


def peers(manifests: list[Manifest]) -> dict[str, Peer]:
    """Our pods by the name in their labels, and `task` for those of pipelines."""
    found = {
        pod.labels["app.kubernetes.io/name"]: Peer(
            pod.where, pod.namespace, pod.labels, pod.ports()
        )
        for pod in pods(manifests)
    }
    runs = [m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "clipflow"]
    return found | {"task": Peer("task", namespace_of(runs[0]), KFP_TASK)}


def reaches(manifests: list[Manifest], source: str, target: str, port: int) -> bool:
    """Whether the policies let one of our pods open a connection to another."""
    found = peers(manifests)
    a, b = found[source], found[target]
    return _lets(manifests, a, b, port, "Egress") and _lets(manifests, b, a, port, "Ingress")


def _lets(manifests: list[Manifest], own: Peer, other: Peer, port: int, way: str) -> bool:
    chosen = [
        m
        for m in of_kind(manifests, "NetworkPolicy")
        if namespace_of(m) == own.namespace
        and way in m["spec"]["policyTypes"]
        and _selects(m["spec"]["podSelector"], own.labels)
    ]
    return not chosen or any(
        _has_port(rule, port) and any(_is(peer, other, own.namespace) for peer in _peers(rule))
        for policy in chosen
        for rule in policy["spec"].get(way.lower(), [])
    )


def unused(manifests: list[Manifest]) -> list[str]:
    """Policies and rules that apply to no pod, name none, or name a port that it does not offer."""
    ours = list(peers(manifests).values())
    found = []
    for policy in of_kind(manifests, "NetworkPolicy"):
        spec, name, own = policy["spec"], name_of(policy), namespace_of(policy)
        chosen = [p for p in ours if p.namespace == own and _selects(spec["podSelector"], p.labels)]
        if not chosen:
            found.append(f"{name}: applies to no pod")
        for rule in spec.get("egress", []):
            found += [f"{name}: {problem}" for problem in _unused(rule, ours, own)]
        for rule in spec.get("ingress", []):
            if not any(_is(peer, p, own) for peer in _peers(rule) for p in ours) and not any(
                _foreign(peer) for peer in _peers(rule)
            ):
                found.append(f"{name}: lets nobody in by {rule['from']}")
            for port in rule.get("ports", []):
                if not any(port["port"] in p.ports for p in chosen):
                    found.append(f"{name}: no pod listens on {port['port']}")
    return found


def _unused(rule: dict[str, Any], ours: list[Peer], own: str) -> list[str]:
    found = []
    for peer in _peers(rule):
        if "ipBlock" in peer:
            if not rule.get("ports"):
                found.append("every port outside the cluster")
            continue
        offered: set[int] = set()
        if foreign := _foreign(peer):
            offered |= FOREIGN[foreign]
        targets = [p for p in ours if _is(peer, p, own)]
        if not targets and not foreign:
            found.append(f"leads to no pod: {peer}")
        for target in targets:
            offered |= target.ports
        found += [
            f"nobody listens on {port['port']}: {peer}"
            for port in rule.get("ports", [])
            if port["port"] not in offered
        ]
    return found


def _peers(rule: dict[str, Any]) -> list[dict[str, Any]]:
    return list(rule.get("to") or rule.get("from") or [])


def _foreign(peer: dict[str, Any]) -> str | None:
    """The namespace of others that a peer without a pod selector names."""
    labels = peer.get("namespaceSelector", {}).get("matchLabels", {})
    name = labels.get("kubernetes.io/metadata.name")
    return name if name in FOREIGN and "podSelector" not in peer else None


def _is(peer: dict[str, Any], pod: Peer, own: str) -> bool:
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        where = _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
    else:
        where = pod.namespace == own
    return where and _selects(peer.get("podSelector", {}), pod.labels)


def _has_port(rule: dict[str, Any], port: int) -> bool:
    return "ports" not in rule or any(port == p["port"] for p in rule["ports"])


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        if term["operator"] != "In":
            raise NotImplementedError(term["operator"])
        if labels.get(term["key"]) not in term["values"]:
            return False
    return True


def services(manifests: list[Manifest]) -> list[str]:
    """Services without a pod, or with a port that their pods do not have."""
    found = []
    for service in of_kind(manifests, "Service"):
        chosen = [
            pod
            for pod in pods(manifests)
            if pod.namespace == namespace_of(service)
            and service["spec"]["selector"].items() <= pod.labels.items()
        ]
        names = {p["name"] for pod in chosen for c in pod.containers() for p in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in names:
                found.append(f"{name_of(service)}: no pod with port {port['targetPort']}")
    return found
