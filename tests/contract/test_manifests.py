"""The manifests of k8s/ are valid and keep our policies, and each check finds what it is for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.artifacts import ROOT
from manifests import network, policy, schema, security
from manifests.render import Manifest, of_kind, pods, render

OVERLAYS = ("overlays/dev", "overlays/prod")
CHECKS: dict[str, Callable[[list[Manifest]], list[str]]] = {
    "restricted": security.problems,
    "images": lambda manifests: policy.images(manifests, pinned=False),
    "digests": lambda manifests: policy.images(manifests, pinned=True),
    "resources": policy.resources,
    "access": policy.access,
    "secrets": policy.secrets,
    "references": policy.references,
    "network": network.unused,
    "services": network.services,
}


def one(manifests: list[Manifest], kind: str, name: str) -> Any:
    (found,) = [m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name]
    return found


def container(manifests: list[Manifest], name: str = "mlflow") -> Any:
    return one(manifests, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]


def node(manifests: list[Manifest]) -> Any:
    """The pod spec inside the TrainingRuntime."""
    jobs = one(manifests, "TrainingRuntime", "clipflow-torch")["spec"]["template"]["spec"]
    return jobs["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("folder", [*OVERLAYS, "options/external-secrets"])
def test_every_object_is_valid(folder: str) -> None:
    assert [problem for m in render(folder) for problem in schema.problems(m)] == []


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "digests"])
@pytest.mark.parametrize("folder", OVERLAYS)
def test_policies(folder: str, check: str) -> None:
    assert CHECKS[check](render(folder)) == []


def test_production_runs_digests_only() -> None:
    assert CHECKS["digests"](render("overlays/prod")) == []


@pytest.mark.parametrize("cloud", ["gke", "eks", "aks"])
def test_pools_of_clouds(cloud: str, tmp_path: Path) -> None:
    label = {
        "gke": "cloud.google.com/gke-accelerator",
        "eks": "eks.amazonaws.com/nodegroup",
        "aks": "kubernetes.azure.com/agentpool",
    }[cloud]
    with_pools = render_with(tmp_path, f"overlays/prod/pools/{cloud}")
    assert [problem for m in with_pools for problem in schema.problems(m)] == []
    llm = one(with_pools, "Deployment", "llm")["spec"]["template"]["spec"]
    assert list(llm["nodeSelector"]) == [label]
    flavor = one(with_pools, "ResourceFlavor", "clipflow-gpu")
    assert flavor["spec"]["nodeLabels"] == llm["nodeSelector"]


def render_with(folder: Path, component: str) -> list[Manifest]:
    """The production overlay with a component, as its users add one."""
    shutil.copytree(ROOT / "k8s", folder / "k8s")
    overlay = folder / "k8s" / "overlays" / "prod" / "kustomization.yaml"
    place = os.path.relpath(folder / "k8s" / component, overlay.parent)
    overlay.write_text(f"{overlay.read_text()}components: [{place}]\n")
    return render(str(overlay.parent))


@pytest.mark.parametrize("kind", ["Deployment", "TrainingRuntime", "ClusterQueue", "NetworkPolicy"])
def test_a_typo_is_found_wherever_it_is(kind: str) -> None:
    """One misspelt field at every depth of an object."""

    def places(value: Any, below: str = "") -> Any:
        if isinstance(value, dict):
            if value and below and not below.endswith(("labels", "matchLabels", "nodeLabels")):
                yield value, below
            for key, item in value.items():
                if key not in ("metadata", "requests", "limits", "nodeSelector"):
                    yield from places(item, f"{below}.{key}")
        elif isinstance(value, list):
            for item in value:
                yield from places(item, below)

    num = 0
    for manifest in of_kind(render("overlays/prod"), kind):
        for place, path in list(places(manifest)):
            place["replicaz"] = 1
            assert schema.problems(manifest), f"{manifest['metadata']['name']}{path}"
            del place["replicaz"]
            num += 1
    assert num > 5


def test_a_wrong_type_and_a_wrong_version_are_found() -> None:
    manifests = render("overlays/prod")
    queue = one(manifests, "ClusterQueue", "clipflow")
    queue["spec"]["preemption"]["withinClusterQueue"] = "Sometimes"
    assert "Sometimes" in schema.problems(queue)[0]
    queue["apiVersion"] = "kueue.x-k8s.io/v1alpha1"
    assert "no version v1alpha1" in schema.problems(queue)[0]
    deployment = one(manifests, "Deployment", "mlflow")
    deployment["spec"]["replicas"] = "two"
    assert schema.problems(deployment)
    deployment["kind"] = "Deploiment"
    assert "no schema" in schema.problems(deployment)[0]


def change(name: str) -> Callable[[Callable[[list[Manifest]], object]], Any]:
    def note(function: Callable[[list[Manifest]], object]) -> Any:
        BAD.append(pytest.param(name, function, id=f"{name}-{function.__name__}"))
        return function

    return note


BAD: list[Any] = []


@change("restricted")
def root_user(manifests: list[Manifest]) -> None:
    container(manifests)["securityContext"]["runAsUser"] = 0


@change("restricted")
def not_non_root(manifests: list[Manifest]) -> None:
    del node(manifests)["securityContext"]["runAsNonRoot"]


@change("restricted")
def capability_kept(manifests: list[Manifest]) -> None:
    del node(manifests)["containers"][0]["securityContext"]["capabilities"]


@change("restricted")
def escalation(manifests: list[Manifest]) -> None:
    del container(manifests)["securityContext"]["allowPrivilegeEscalation"]


@change("restricted")
def no_seccomp(manifests: list[Manifest]) -> None:
    del node(manifests)["securityContext"]["seccompProfile"]


@change("restricted")
def host_path(manifests: list[Manifest]) -> None:
    node(manifests)["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


@change("restricted")
def writable_root(manifests: list[Manifest]) -> None:
    container(manifests)["securityContext"]["readOnlyRootFilesystem"] = False


@change("restricted")
def baseline_namespace(manifests: list[Manifest]) -> None:
    labels = one(manifests, "Namespace", "clipflow")["metadata"]["labels"]
    labels["pod-security.kubernetes.io/enforce"] = "baseline"


@change("images")
def latest(manifests: list[Manifest]) -> None:
    container(manifests)["image"] = "registry.example.org:5000/clipflow-cpu:latest"


@change("images")
def no_tag(manifests: list[Manifest]) -> None:
    container(manifests)["image"] = "registry.example.org:5000/clipflow-cpu"


@change("digests")
def tag(manifests: list[Manifest]) -> None:
    node(manifests)["containers"][0]["image"] = "clipflow-gpu:v1"


@change("resources")
def no_limit(manifests: list[Manifest]) -> None:
    del container(manifests)["resources"]["limits"]


@change("access")
def wildcard(manifests: list[Manifest]) -> None:
    one(manifests, "Role", "clipflow-launcher")["rules"][0]["verbs"] = ["*"]


@change("access")
def all_secrets(manifests: list[Manifest]) -> None:
    del one(manifests, "Role", "clipflow-kfp-task")["rules"][-1]["resourceNames"]


@change("access")
def cluster_role(manifests: list[Manifest]) -> None:
    manifests.append({"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": []})


@change("access")
def token(manifests: list[Manifest]) -> None:
    node(manifests)["automountServiceAccountToken"] = True


@change("secrets")
def secret(manifests: list[Manifest]) -> None:
    manifests.append({"kind": "Secret", "metadata": {"name": "x"}, "data": {}})


@change("secrets")
def password_in_the_open(manifests: list[Manifest]) -> None:
    container(manifests)["env"].append({"name": "DB_PASSWORD", "value": "hunter2"})


@change("secrets")
def url_with_password(manifests: list[Manifest]) -> None:
    one(manifests, "ConfigMap", "mlflow")["data"]["URI"] = "postgresql://mlflow:hunter2@db/mlflow"


@change("references")
def unknown_secret(manifests: list[Manifest]) -> None:
    container(manifests)["envFrom"].append({"secretRef": {"name": "clipflow-stroe"}})


@change("references")
def unknown_key(manifests: list[Manifest]) -> None:
    variable = next(v for v in container(manifests, "llm")["env"] if "valueFrom" in v)
    variable["valueFrom"]["secretKeyRef"]["key"] = "OPENAI_KEY"


@change("references")
def claim_elsewhere(manifests: list[Manifest]) -> None:
    one(manifests, "PersistentVolumeClaim", "clipflow-scratch")["metadata"]["namespace"] = "other"


@change("references")
def no_service_account(manifests: list[Manifest]) -> None:
    manifests.remove(one(manifests, "ServiceAccount", "clipflow-trainer"))


@change("references")
def no_flavor(manifests: list[Manifest]) -> None:
    manifests.remove(one(manifests, "ResourceFlavor", "clipflow-gpu-spot"))


@change("references")
def volume_without_mount(manifests: list[Manifest]) -> None:
    container(manifests)["volumeMounts"].pop()


@change("network")
def policy_of_nobody(manifests: list[Manifest]) -> None:
    selector = one(manifests, "NetworkPolicy", "llm-to-hub")["spec"]["podSelector"]
    selector["matchLabels"]["app.kubernetes.io/name"] = "lmm"


@change("network")
def egress_to_nobody(manifests: list[Manifest]) -> None:
    manifests.remove(one(manifests, "Deployment", "llm"))


@change("network")
def port_of_nobody(manifests: list[Manifest]) -> None:
    one(manifests, "NetworkPolicy", "task")["spec"]["egress"][1]["ports"][0]["port"] = 5001


@change("services")
def port_not_there(manifests: list[Manifest]) -> None:
    container(manifests)["ports"][0]["name"] = "web"


@pytest.mark.parametrize(("check", "spoil"), BAD)
def test_each_check_finds_what_it_is_for(
    check: str, spoil: Callable[[list[Manifest]], object]
) -> None:
    manifests = render("overlays/prod")
    spoil(manifests)
    assert CHECKS[check](manifests)


CONNECTIONS = {
    "overlays/dev": {
        ("task", "mlflow", 5000),
        ("task", "store", 9000),
        ("trainer", "mlflow", 5000),
        ("trainer", "store", 9000),
        ("trainer", "trainer", 29500),
        ("mlflow", "postgres", 5432),
        ("mlflow", "store", 9000),
        ("mlflow-migrate", "postgres", 5432),
        ("store-bucket", "store", 9000),
    },
    "overlays/prod": {
        ("task", "mlflow", 5000),
        ("task", "llm", 8000),
        ("trainer", "mlflow", 5000),
        ("trainer", "trainer", 29500),
    },
}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_who_reaches_whom(folder: str) -> None:
    """These connections are open, and no others."""
    manifests = render(folder)
    names = network.peers(manifests)
    ports = {"mlflow": 5000, "postgres": 5432, "store": 9000, "llm": 8000, "trainer": 29500}
    found = {
        (source, target, port)
        for source in names
        for target, port in ports.items()
        if target in names and network.reaches(manifests, source, target, port)
    }
    assert found == CONNECTIONS[folder]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_mlflow_answers_to_the_name_that_runs_call_it_by(folder: str) -> None:
    manifests = render(folder)
    uri = one(manifests, "ConfigMap", "clipflow")["data"]["MLFLOW_TRACKING_URI"]
    hosts = one(manifests, "ConfigMap", "mlflow")["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert uri.removeprefix("http://") in hosts
    assert "*" not in hosts


def test_training_pods_have_all_that_tasks_have() -> None:
    spec = node(render("overlays/prod"))
    (trainer,) = spec["containers"]
    named = {item[key]["name"] for item in trainer["envFrom"] for key in item}
    assert named == {"clipflow", "clipflow-store", "clipflow-mlflow", "clipflow-hub"}
    places = {mount["mountPath"] for mount in trainer["volumeMounts"]}
    assert {"/scratch", "/dev/shm", "/tmp"} <= places


@pytest.mark.parametrize("folder", OVERLAYS)
def test_whoever_shares_scratch_is_of_one_user_and_group(folder: str) -> None:
    """Else a retry can't go on from what another pod wrote. Tasks run as USER of clipflow/pods.py."""
    shared = [
        pod for pod in pods(render(folder)) if "clipflow-scratch" in str(pod.spec.get("volumes"))
    ]
    contexts = [pod.spec["securityContext"] for pod in shared]
    assert len(shared) == 2
    for context in contexts:
        assert {context[k] for k in ("runAsUser", "runAsGroup", "fsGroup")} == {65532}


def test_no_pod_is_overlooked() -> None:
    """Whatever has containers is among the pods that the checks see."""

    def count(value: Any) -> int:
        if isinstance(value, dict):
            return ("containers" in value) + sum(count(item) for item in value.values())
        return sum(count(item) for item in value) if isinstance(value, list) else 0

    for folder in OVERLAYS:
        manifests = render(folder)
        assert len(pods(manifests)) == count(manifests)
