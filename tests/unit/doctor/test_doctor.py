"""A cluster with what k8s/ makes has no problem; each lack is one, with its fix."""

from __future__ import annotations

import base64
import copy
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipflow import findings, pods
from clipflow.cli import app
from clipflow.doctor import examine
from clipflow.doctor.objects import KINDS
from clipflow.findings import Finding
from fakes.kubernetes_api import KubernetesApi, serve
from manifests.render import render

NODE = {
    "metadata": {"name": "gpu-1", "labels": dict(pods.GPU_POOL)},
    "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
    "status": {
        "allocatable": {"cpu": "64", "nvidia.com/gpu": "8"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
HEALTHZ = {"tag_name": "99.0.0", "multi_user": False}
VALUE = "a-secret-value"


@pytest.fixture(scope="module")
def server() -> Iterator[KubernetesApi]:
    with serve() as api:
        yield api


@pytest.fixture
def cluster(
    server: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> KubernetesApi:
    """The dev overlay applied, and what its controllers and its user add to it."""
    server.objects.clear()
    server.requests.clear()
    server.forbidden.clear()
    server.is_away = False
    server.resources = {f"{group}/{v}": plurals for (group, v), (plurals, _) in KINDS.items()}
    server.proxied = {"ml-pipeline:http": HEALTHZ}
    for thing in [*render("overlays/dev"), {"kind": "Namespace", "apiVersion": "v1"}]:
        thing.setdefault("metadata", {"name": "kubeflow"})
        place = thing["metadata"].get("namespace", "")
        server.put(thing["apiVersion"], place, f"{thing['kind'].lower()}s", thing)
    for name, keys in pods.SECRETS.items():
        data = {key: base64.b64encode(VALUE.encode()).decode() for key in keys}
        secret = {"metadata": {"name": name}, "data": data}
        server.put("v1", "kubeflow", "secrets", secret)
    claim(server)["status"] = {"phase": "Bound", "capacity": {"storage": "20Gi"}}
    deployment = server.all("apps/v1", "clipflow", "deployments")["mlflow"]
    deployment["status"] = {"readyReplicas": 1}
    queue(server)["status"] = {"conditions": [{"type": "Active", "status": "True"}]}
    server.put("v1", "", "nodes", copy.deepcopy(NODE))
    config = str(server.kubeconfig(tmp_path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", config)
    monkeypatch.setattr("socket.getaddrinfo", known_here)
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    return server


ask_the_system = socket.getaddrinfo


def known_here(host: str, *args: Any, **options: Any) -> Any:
    """Names as a laptop knows them."""
    if str(host).endswith(".svc"):
        raise socket.gaierror("Name or service not known")
    return ask_the_system(host, *args, **options)


def claim(api: KubernetesApi) -> dict[str, Any]:
    return api.all("v1", "kubeflow", "persistentvolumeclaims")["clipflow-scratch"]


def queue(api: KubernetesApi) -> dict[str, Any]:
    return api.all("kueue.x-k8s.io/v1beta2", "kubeflow", "localqueues")["clipflow"]


def secrets(api: KubernetesApi) -> dict[str, Any]:
    return api.all("v1", "kubeflow", "secrets")


def node(api: KubernetesApi) -> dict[str, Any]:
    return api.all("v1", "", "nodes")["gpu-1"]


def look() -> list[Finding]:
    return list(examine("kubeflow", service_account="clipflow-run"))


def problems() -> list[Finding]:
    return [finding for finding in look() if finding.mark == "problem"]


def test_a_cluster_with_k8s_applied_has_no_problem(cluster: KubernetesApi) -> None:
    found = look()
    assert [finding for finding in found if finding.mark == "problem"] == []
    said = {finding.what: finding for finding in found}
    assert said["Kubernetes"].said.startswith("v1.34.1 at http://127.0.0.1:")
    assert said["Kubeflow Pipelines"].said == "99.0.0 at the cluster"
    assert said["GPU nodes"].said == "1 in pool clipflow.dev/pool=gpu with 8 nvidia.com/gpu"
    for what, port in (("MLflow", 5000), ("Object store", 9000)):
        assert said[what].mark == "not checked"
        assert "is known in the cluster only" in said[what].said
        assert f" {port} and --" in said[what].fix
    # Nothing is changed, and a pod's values stay where they are.
    assert {r.verb for r in cluster.requests if "subjectaccessreviews" not in r.path} == {"get"}
    assert VALUE not in findings.as_json(found)


def remove(api_version: str, namespace: str, plural: str, name: str) -> Any:
    return lambda api: api.all(api_version, namespace, plural).pop(name)


def set_secret(key: str, value: bytes) -> Any:
    encoded = base64.b64encode(value).decode()
    return lambda api: secrets(api)["clipflow-store"]["data"].update({key: encoded})


def set_node(**changes: Any) -> Any:
    def change(api: KubernetesApi) -> None:
        for part, values in changes.items():
            node(api)[part].update(values)

    return change


QUEUE_ENDED = {"type": "Active", "status": "False", "message": "ClusterQueue doesn't exist"}
NAME_OF_STORE = "kubectl create secret generic clipflow-store -n kubeflow"
LACKS: dict[str, tuple[Any, str, str, str]] = {
    "trainer": (
        lambda api: api.resources.pop("trainer.kubeflow.org/v1alpha1"),
        "trainer.kubeflow.org/v1alpha1", "is not there", "install Kubeflow Trainer",
    ),
    "kueue without localqueues": (
        lambda api: api.resources.update({"kueue.x-k8s.io/v1beta2": ("clusterqueues",)}),
        "kueue.x-k8s.io/v1beta2", "lacks localqueues", "install Kueue 0.15",
    ),
    "policy": (
        lambda api: api.all("v1", "", "namespaces")["clipflow"]["metadata"].pop("labels"),
        "Namespace clipflow", "expected Pod Security restricted, found None", "make deploy",
    ),
    "mlflow down": (
        lambda api: api.all("apps/v1", "clipflow", "deployments")["mlflow"].update(status={}),
        "Deployment clipflow/mlflow", "0 of 1 ready", "kubectl describe pods -n clipflow",
    ),
    "namespace": (
        remove("v1", "", "namespaces", "kubeflow"),
        "Namespace kubeflow", "is not there", "set --namespace",
    ),
    "config": (
        remove("v1", "kubeflow", "configmaps", "clipflow"),
        "ConfigMap clipflow", "is not there", "make deploy OVERLAY=dev",
    ),
    "config's address": (
        lambda api: api.all("v1", "kubeflow", "configmaps")["clipflow"]["data"].pop("CLIPFLOW_STORE"),
        "ConfigMap clipflow", "lacks CLIPFLOW_STORE", "make deploy",
    ),
    "secret": (
        remove("v1", "kubeflow", "secrets", "clipflow-store"),
        "Secret clipflow-store", "is not there", NAME_OF_STORE,
    ),
    "secret's key": (
        set_secret("AWS_ACCESS_KEY_ID", b""),
        "Secret clipflow-store", "lacks AWS_ACCESS_KEY_ID", NAME_OF_STORE,
    ),
    "secret's newline": (
        set_secret("AWS_SECRET_ACCESS_KEY", b"key\n"),
        "Secret clipflow-store", "AWS_SECRET_ACCESS_KEY: space or a newline around the value",
        NAME_OF_STORE,
    ),
    "claim": (
        lambda api: claim(api).update(status={"phase": "Pending"}),
        "PersistentVolumeClaim clipflow-scratch", "Pending, not bound", "kubectl describe pvc",
    ),
    "account": (
        remove("v1", "kubeflow", "serviceaccounts", "clipflow-trainer"),
        "ServiceAccount clipflow-trainer", "is not there", "make deploy",
    ),
    "runtime": (
        remove("trainer.kubeflow.org/v1alpha1", "kubeflow", "trainingruntimes", "clipflow-torch"),
        "TrainingRuntime clipflow-torch", "is not there", "make deploy",
    ),
    "queue": (
        lambda api: queue(api).update(status={"conditions": [QUEUE_ENDED]}),
        "LocalQueue clipflow", "not active: ClusterQueue doesn't exist",
        "kubectl describe clusterqueue clipflow",
    ),
    "queue unseen": (
        lambda api: queue(api).pop("status"),
        "LocalQueue clipflow", "Kueue has not looked at it yet", "kueue-system",
    ),
    "rights": (
        lambda api: api.forbidden.update({("create", "trainjobs"), ("get", "pods/log")}),
        "Rights of clipflow-run", "may not create trainjobs, get pods/log", "access.yaml",
    ),
    "label": (
        set_node(metadata={"labels": {}}),
        "Node gpu-1", "8 nvidia.com/gpu, but not labelled clipflow.dev/pool=gpu",
        "kubectl label node gpu-1 clipflow.dev/pool=gpu",
    ),
    "device plugin": (
        set_node(status={"allocatable": {"cpu": "64"}}),
        "Node gpu-1", "labelled clipflow.dev/pool=gpu, but offers no nvidia.com/gpu",
        "install NVIDIA's device plugin",
    ),
    "taint": (
        set_node(spec={"taints": [{"key": "team", "value": "a", "effect": "NoExecute"}]}),
        "Node gpu-1", "taint team=a:NoExecute is not tolerated", "tolerations=",
    ),
    "cordon": (set_node(spec={"unschedulable": True}), "Node gpu-1", "cordoned", "uncordon"),
    "not ready": (set_node(status={"conditions": []}), "Node gpu-1", "not ready", "describe node"),
    "login page": (
        lambda api: api.proxied.update({"ml-pipeline:http": "<html>Log in</html>"}),
        "Kubeflow Pipelines", "the cluster answers, but not as Kubeflow Pipelines does", "login",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lack", LACKS)
def test_a_lack_is_one_problem_with_its_fix(cluster: KubernetesApi, lack: str) -> None:
    change, what, said, fix = LACKS[lack]
    change(cluster)
    (found,) = problems()
    assert (found.what, found.said) == (what, said)
    assert fix in found.fix


def test_nodes_that_can_not_be_used_are_no_problem_beside_one_that_can(
    cluster: KubernetesApi,
) -> None:
    other = copy.deepcopy(NODE)
    other["metadata"]["name"] = "gpu-2"
    other["spec"]["unschedulable"] = True
    cluster.put("v1", "", "nodes", other)
    assert problems() == []
    assert "; 1 others can't be used" in {f.what: f for f in look()}["GPU nodes"].said


def test_no_gpu_node_is_no_problem(cluster: KubernetesApi) -> None:
    cluster.all("v1", "", "nodes").clear()
    (found,) = [f for f in look() if f.what == "GPU nodes"]
    assert found.mark == "not checked"
    assert "accelerators_per_node=0" in found.fix


def test_what_may_not_be_read_is_not_checked(cluster: KubernetesApi) -> None:
    cluster.forbidden |= {("get", "secrets"), ("get", "nodes"), ("post", "subjectaccessreviews")}
    marks = {finding.what: finding.mark for finding in look()}
    assert marks["Secret clipflow-store"] == marks["GPU nodes"] == "not checked"
    assert marks["Rights of clipflow-run"] == "not checked"
    assert "problem" not in marks.values()


def test_an_older_pipelines_server_is_said(cluster: KubernetesApi) -> None:
    cluster.proxied["ml-pipeline:http"] = {"tag_name": "2.4.1"}
    (found,) = [f for f in look() if f.what == "Kubeflow Pipelines"]
    assert found.mark == "not checked"
    assert "2.4.1 at the cluster is older than kfp" in found.said


@pytest.mark.parametrize("how", ["token", "away"])
def test_no_kubernetes_is_one_problem(
    cluster: KubernetesApi, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "token", "another" if how == "token" else cluster.token)
    cluster.is_away = how == "away"
    first, *rest = problems()
    assert first.what == "Kubernetes"
    assert ("answered 401" if how == "token" else "can't reach Kubernetes") in first.said
    assert [finding.what for finding in rest] == ["Kubeflow Pipelines"]


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", nowhere)
    assert [(f.what, f.fix) for f in problems()] == [("Kubernetes", "set KUBECONFIG")]


def test_the_command(cluster: KubernetesApi) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0].startswith("ok           Kubernetes: v1.34.1 at ")
    assert ", 0 problem, " in done.output.splitlines()[-1]
    secrets(cluster).clear()
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    first = next(f for f in json.loads(done.output) if f["mark"] == "problem")
    assert first == {
        "mark": "problem",
        "what": "Secret clipflow-store",
        "said": "is not there",
        "fix": f"{NAME_OF_STORE} --from-literal=AWS_ACCESS_KEY_ID=..."
        " --from-literal=AWS_SECRET_ACCESS_KEY=...",
    }
