"""What `k8s/` puts into a cluster: kinds, namespaces, objects of the runs' namespace, rights, GPU nodes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from kubernetes import client

from clipflow import pods
from clipflow.doctor.kubernetes_api import ABSENT, look
from clipflow.findings import Finding, ok, problem, unchecked
from clipflow.pretrain.job_manifest import QUEUE, RUNTIME, TRAINER
from clipflow.pretrain.train_job import KUEUE, WORKFLOWS

SERVICES = "clipflow"
"""The namespace of MLflow and the other servers."""
APPLY = "make deploy OVERLAY=dev (or prod)"
GET_TRAINER = "install Kubeflow Trainer v2: https://www.kubeflow.org/docs/components/trainer/"
GET_KUEUE = "install Kueue 0.15 or newer: https://kueue.sigs.k8s.io/docs/installation/"
GET_KFP = "install Kubeflow Pipelines 2: https://www.kubeflow.org/docs/components/pipelines/"
KINDS = {
    TRAINER: (("trainjobs", "trainingruntimes"), GET_TRAINER),
    ("jobset.x-k8s.io", "v1alpha2"): (("jobsets",), f"{GET_TRAINER} (JobSet comes with it)"),
    KUEUE: (("localqueues", "clusterqueues"), GET_KUEUE),
    WORKFLOWS: (("workflows",), GET_KFP),
}
"""Custom kinds that runs need, by group and the version that `k8s/` has."""
RIGHTS = (
    (TRAINER[0], "trainjobs", ("create", "get", "list", "delete")),
    ("", "pods", ("list",)),
    ("", "pods/log", ("get",)),
    (WORKFLOWS[0], "workflows", ("get",)),
    (WORKFLOWS[0], "workflowtaskresults", ("create",)),
)
"""What a task's service account does: KFP's own bookkeeping, and TrainJobs."""
GPU = "nvidia.com/gpu"
POOL = ",".join(f"{key}={value}" for key, value in pods.GPU_POOL.items())


def version(api: Any) -> Finding:
    """Whether the API answers."""
    found = look("Kubernetes", "check KUBECONFIG", client.VersionApi(api).get_code)
    if isinstance(found, Finding):
        return found
    return ok("Kubernetes", f"{found.git_version} at {api.configuration.host}")


def kinds(api: Any) -> Iterator[Finding]:
    """Whether the custom kinds are served, in the versions that `k8s/` has."""
    objects = client.CustomObjectsApi(api)
    for (group, served), (plurals, fix) in KINDS.items():
        what = f"{group}/{served}"
        found = look(what, fix, objects.get_api_resources, group, served)
        if isinstance(found, Finding):
            yield found
            continue
        lacking = sorted(set(plurals) - {resource.name for resource in found.resources})
        if lacking:
            yield problem(what, f"lacks {', '.join(lacking)}", fix)
        else:
            yield ok(what, ", ".join(plurals))


def servers(api: Any) -> Iterator[Finding]:
    """The servers' namespace, with its policy, and whether MLflow's pods are up."""
    what = f"Namespace {SERVICES}"
    found = look(what, APPLY, client.CoreV1Api(api).read_namespace, SERVICES)
    if isinstance(found, Finding):
        yield found
        return
    level = (found.metadata.labels or {}).get("pod-security.kubernetes.io/enforce")
    if level == "restricted":
        yield ok(what, "Pod Security restricted")
    else:
        yield problem(what, f"expected Pod Security restricted, found {level}", APPLY)
    what = f"Deployment {SERVICES}/mlflow"
    found = look(what, APPLY, client.AppsV1Api(api).read_namespaced_deployment, "mlflow", SERVICES)
    if isinstance(found, Finding):
        yield found
        return
    ready, wanted = found.status.ready_replicas or 0, found.spec.replicas or 0
    if ready:
        yield ok(what, f"{ready} of {wanted} ready")
    else:
        yield problem(what, f"0 of {wanted} ready", f"kubectl describe pods -n {SERVICES}")


def namespace(api: Any, name: str) -> Finding:
    """Whether the runs' namespace is there."""
    fix = f"{GET_KFP}, or set --namespace"
    found = look(f"Namespace {name}", fix, client.CoreV1Api(api).read_namespace, name)
    return found if isinstance(found, Finding) else ok(f"Namespace {name}", "for runs")


def of_runs(api: Any, name: str, environ: dict[str, str]) -> Iterator[Finding]:
    """What tasks refer to in the runs' namespace; their environment is put into `environ`."""
    core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
    yield _config(core, name, environ)
    for secrets, optional in ((pods.SECRETS, False), (pods.LLM | pods.HUB, True)):
        for secret, keys in secrets.items():
            yield _secret(core, name, secret, keys, optional, environ)
    yield _claim(core, name)
    for account in ("clipflow-run", "clipflow-trainer"):
        what = f"ServiceAccount {account}"
        found = look(what, APPLY, core.read_namespaced_service_account, account, name)
        yield found if isinstance(found, Finding) else ok(what, "is there")
    place = (*TRAINER, name, "trainingruntimes", RUNTIME)
    what = f"TrainingRuntime {RUNTIME}"
    found = look(what, APPLY, custom.get_namespaced_custom_object, *place)
    yield found if isinstance(found, Finding) else ok(what, "is there")
    yield _queue(custom, name)


def rights(api: Any, name: str, account: str) -> Finding:
    """What the tasks' service account may do."""
    what = f"Rights of {account}"
    user = f"system:serviceaccount:{name}:{account}"
    ask = client.AuthorizationV1Api(api).create_subject_access_review
    lacking = []
    for group, resource, verbs in RIGHTS:
        plural, _, part = resource.partition("/")
        for verb in verbs:
            wanted = client.V1ResourceAttributes(
                namespace=name, group=group, resource=plural, subresource=part or None, verb=verb
            )
            spec = client.V1SubjectAccessReviewSpec(
                user=user,
                groups=["system:serviceaccounts", f"system:serviceaccounts:{name}"],
                resource_attributes=wanted,
            )
            found = look(what, APPLY, ask, client.V1SubjectAccessReview(spec=spec))
            if isinstance(found, Finding):
                by_hand = f"kubectl auth can-i --list -n {name} --as {user}"
                return unchecked(what, found.said, by_hand) if found.mark != "problem" else found
            if not found.status.allowed:
                lacking.append(f"{verb} {resource}")
    if lacking:
        fix = f"{APPLY}; for an account of your own, bind it to the Roles in k8s/base/runs/access.yaml"
        return problem(what, f"may not {', '.join(lacking)}", fix)
    return ok(what, "starts and follows TrainJobs")


def nodes(api: Any) -> Iterator[Finding]:
    """GPU nodes: whether the default pool has one that pods can go to, and if not, why."""
    found = look("GPU nodes", "", client.CoreV1Api(api).list_node)
    if isinstance(found, Finding):
        yield found
        return
    counts, faults = [], []
    for node in found.items:
        count = int((node.status.allocatable or {}).get(GPU, 0))
        if fault := _fault(node, count):
            faults.append(fault)
        elif count:
            counts.append(count)
    if counts:
        others = f"; {len(faults)} others can't be used" if faults else ""
        yield ok("GPU nodes", f"{len(counts)} in pool {POOL} with {sum(counts)} {GPU}{others}")
    elif faults:
        yield from faults
    else:
        fix = "without GPUs: accelerators_per_node=0 'node_selector={}' 'tolerations=[]'"
        yield unchecked("GPU nodes", "none now; a pool may grow from nothing", fix)


def _config(core: Any, namespace: str, environ: dict[str, str]) -> Finding:
    what = f"ConfigMap {pods.CONFIG}"
    found = look(what, APPLY, core.read_namespaced_config_map, pods.CONFIG, namespace)
    if isinstance(found, Finding):
        return found
    data = found.data or {}
    environ.update(data)
    lacking = [key for key in pods.NEEDED if not data.get(key)]
    if lacking:
        return problem(what, f"lacks {', '.join(lacking)}", APPLY)
    return ok(what, f"{len(data)} settings")


def _secret(
    core: Any,
    namespace: str,
    name: str,
    keys: tuple[str, ...],
    optional: bool,
    environ: dict[str, str],
) -> Finding:
    """Whether a secret has its keys. Values go to `environ` alone, and are never shown."""
    what = f"Secret {name}"
    literals = " ".join(f"--from-literal={key}=..." for key in keys)
    fix = f"kubectl create secret generic {name} -n {namespace} {literals}"
    found = look(what, fix, core.read_namespaced_secret, name, namespace)
    if isinstance(found, Finding):
        if optional and found.said == ABSENT:
            return ok(what, "is not there, and optional")
        return found
    data = {key: base64.b64decode(text or "") for key, text in (found.data or {}).items()}
    if lacking := [key for key in keys if not data.get(key)]:
        again = f"kubectl delete secret {name} -n {namespace}; {fix}"
        return problem(what, f"lacks {', '.join(lacking)}", again)
    if ragged := [key for key in keys if data[key] != data[key].strip()]:
        again = f"kubectl delete secret {name} -n {namespace}; {fix}"
        return problem(what, f"{', '.join(ragged)}: space or a newline around the value", again)
    environ.update({key: data[key].decode(errors="replace") for key in keys})
    return ok(what, ", ".join(keys))


def _claim(core: Any, namespace: str) -> Finding:
    what = f"PersistentVolumeClaim {pods.SCRATCH}"
    read = core.read_namespaced_persistent_volume_claim
    found = look(what, APPLY, read, pods.SCRATCH, namespace)
    if isinstance(found, Finding):
        return found
    if found.status.phase == "Bound":
        size = (found.status.capacity or {}).get("storage", "size unknown")
        return ok(what, f"bound, {size}, {', '.join(found.spec.access_modes or [])}")
    fix = (
        f"kubectl describe pvc {pods.SCRATCH} -n {namespace}; its access mode needs a storage class"
        " that offers it"
    )
    return problem(what, f"{found.status.phase}, not bound", fix)


def _queue(custom: Any, namespace: str) -> Finding:
    what = f"LocalQueue {QUEUE}"
    place = (*KUEUE, namespace, "localqueues", QUEUE)
    found = look(what, APPLY, custom.get_namespaced_custom_object, *place)
    if isinstance(found, Finding):
        return found
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == "Active":
            if condition["status"] == "True":
                return ok(what, "active")
            fix = f"kubectl describe clusterqueue {found['spec'].get('clusterQueue')}"
            return problem(what, f"not active: {condition.get('message')}", fix)
    fix = "kubectl get pods -n kueue-system: is its controller running?"
    return problem(what, "Kueue has not looked at it yet", fix)


def _fault(node: Any, count: int) -> Finding | None:
    """Why pods of the pipeline can't go to a node with GPUs, or one of the pool; None if they can."""
    name, labels = node.metadata.name, node.metadata.labels or {}
    what = f"Node {name}"
    if not all(labels.get(key) == value for key, value in pods.GPU_POOL.items()):
        fix = f"kubectl label node {name} {POOL}, or submit with node_selector="
        return problem(what, f"{count} {GPU}, but not labelled {POOL}", fix) if count else None
    if not count:
        fix = "install NVIDIA's device plugin or GPU operator; its pods say what they lack"
        return problem(what, f"labelled {POOL}, but offers no {GPU}", fix)
    if not any(c.type == "Ready" and c.status == "True" for c in node.status.conditions or []):
        return problem(what, "not ready", f"kubectl describe node {name}")
    if node.spec.unschedulable:
        return problem(what, "cordoned", f"kubectl uncordon {name}")
    tolerated = {toleration["key"] for toleration in pods.GPU_TAINTS}
    taints = [t for t in node.spec.taints or [] if t.effect != "PreferNoSchedule"]
    if strange := [t for t in taints if t.key not in tolerated]:
        shown = ", ".join(f"{t.key}={t.value or ''}:{t.effect}" for t in strange)
        fix = "submit with tolerations= that name it too"
        return problem(what, f"taint {shown} is not tolerated", fix)
    return None
