"""pretrain over several nodes: a TrainJob of Kubeflow Trainer v2, started, followed and ended from a task.

The task's pod does not train. Whatever happens to it, the job goes on: its name comes from the run, so that
the next try finds it again. Only when the run itself is terminated is the job deleted, and whoever deletes
the run's Workflow deletes the job with it.

The Kubernetes API is asked by kfp's own client package. Kubeflow's SDK is not used: its waiting has a
deadline, and a job may stand in a queue for days.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from clipflow.errors import ClipflowError, ClusterError
from clipflow.pretrain.placement import Placement

logger = logging.getLogger(__name__)
T = TypeVar("T")

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
WORKFLOWS = ("argoproj.io", "v1alpha1")
RUNTIME = "clipflow-torch"
"""The TrainingRuntime in `k8s/`: pods' environment, secrets, scratch and shared memory."""
QUEUE = "clipflow"
"""The LocalQueue of Kueue; without Kueue the label means nothing."""
OF_JOB = "jobset.sigs.k8s.io/jobset-name"
DIGEST = "clipflow.dev/spec-digest"
POLL_S = 10.0
CALL_S = 30.0
"""How long a call to the API may take."""
AWAY_S = 900.0
"""How long the API may be away before this try gives up; the job goes on all the same."""
LAST_LINES = 20
PASSING = {408, 429, 500, 502, 503, 504}
"""Answers that may be others a little later."""


@dataclass(frozen=True)
class Run:
    """The pipeline run that a job belongs to."""

    id: str
    workflow: str
    """Name of its Argo Workflow."""
    namespace: str


def manifest(
    run: Run, placement: Placement, params: str, arguments: list[str], *, workflow_uid: str | None
) -> dict[str, Any]:
    """The TrainJob. `params`: text of a params file, which `arguments` name /tmp/params.json."""
    amount = {"memory": placement.memory}
    if placement.accelerators_per_node:
        amount[placement.accelerator] = str(placement.accelerators_per_node)
    environ = {"CLIPFLOW_PARAMS": params, "KFP_RUN_ID": run.id, "KFP_WORKFLOW": run.workflow}
    if not placement.accelerators_per_node:
        environ["ACCELERATE_USE_CPU"] = "1"
    script = 'printf %s "$CLIPFLOW_PARAMS" > /tmp/params.json && exec torchrun -m clipflow "$@"'
    pods = {"nodeSelector": placement.node_selector, "tolerations": placement.tolerations}
    node = {"name": "node", "template": {"spec": {"template": {"spec": pods}}}}
    spec = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": RUNTIME},
        "trainer": {
            "image": placement.image,
            "command": ["sh", "-c", script, "torchrun"],
            "args": arguments,
            "env": [{"name": name, "value": value} for name, value in environ.items()],
            "numNodes": placement.num_nodes,
            "numProcPerNode": max(1, placement.accelerators_per_node),
            "resourcesPerNode": {"limits": amount, "requests": amount},
        },
        "runtimePatches": [
            {
                "manager": "clipflow.dev/pretrain",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}},
            }
        ],
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    owner = {
        "apiVersion": "/".join(WORKFLOWS),
        "kind": "Workflow",
        "name": run.workflow,
        "uid": workflow_uid,
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": f"pretrain-{run.id[:8]}-{digest[:8]}",
            "namespace": run.namespace,
            "labels": {"kueue.x-k8s.io/queue-name": QUEUE, "clipflow.dev/run": run.id},
            "annotations": {DIGEST: digest},
            **({"ownerReferences": [owner]} if workflow_uid else {}),
        },
        "spec": spec,
    }


def run(
    run: Run, placement: Placement, params: str, arguments: list[str], *, poll_s: float = POLL_S
) -> None:
    """Start the job or find the one that an earlier try started, and follow it to its end.

    There is no limit to how long it may be queued or run. Raises ClusterError if the API refuses, or is
    away for long, and ClipflowError if the job fails; SystemExit(143) on SIGTERM.
    """
    job = _Job(run, poll_s)
    with job.stopping_on_sigterm():
        job.start(manifest(run, placement, params, arguments, workflow_uid=job.workflow_uid()))
        job.follow()


class _Job:
    """One TrainJob, from the side of the task that waits for it."""

    def __init__(self, run: Run, poll_s: float) -> None:
        _configure()
        self.run, self.poll_s = run, poll_s
        self.name = ""
        self._objects, self._core = client.CustomObjectsApi(), client.CoreV1Api()
        self._stop = threading.Event()
        self._said: dict[str, str] = {}
        self._seen: tuple[str, str] = ("", "")

    def workflow_uid(self) -> str | None:
        """The uid of the run's Workflow, or None with a word about it if it can't be read."""
        try:
            return str(self._workflow()["metadata"]["uid"])
        except ClusterError as error:
            logger.warning("%s; the job will outlive its deletion", error)
            return None

    def start(self, body: dict[str, Any]) -> None:
        """Create the job unless it is there; one that has failed is replaced."""
        self.name = body["metadata"]["name"]
        found = self._get()
        if found and _condition(found, "Failed"):
            logger.info("TrainJob %s failed in an earlier try: made anew", self.name)
            self._delete()
            found = None
        if found is None:
            try:
                self._ask(
                    "create", self._objects.create_namespaced_custom_object, *self._place(), body
                )
                logger.info("created TrainJob %s in %s", self.name, self.run.namespace)
                return
            except _ConflictError:  # an answer was lost, and the call made twice
                found = self._get() or {}
        theirs = found.get("metadata", {}).get("annotations", {}).get(DIGEST)
        if theirs != body["metadata"]["annotations"][DIGEST]:
            raise ClusterError(
                f"TrainJob {self.run.namespace}/{self.name}: exists with another spec ({theirs});"
                f" 'kubectl delete trainjob -n {self.run.namespace} {self.name}' and run it again"
            )
        logger.info("TrainJob %s is there already: going on with it", self.name)

    def follow(self) -> None:
        """Wait for the end, and say meanwhile what happens."""
        while True:
            job = self._get()
            if job is None:
                raise ClipflowError(
                    f"TrainJob {self.run.namespace}/{self.name}: deleted by somebody while it ran;"
                    " run it again to go on from the state that was saved last"
                )
            pods = self._pods()
            self._tell(job, pods)
            self._pass_on_log(pods)
            if _condition(job, "Complete"):
                logger.info("TrainJob %s is complete", self.name)
                return
            if failed := _condition(job, "Failed"):
                raise ClipflowError(self._failure(failed, pods))
            if self._stop.wait(self.poll_s):
                self._leave()

    @contextmanager
    def stopping_on_sigterm(self) -> Iterator[None]:
        """Have SIGTERM end the waiting."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._stop.set()

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _leave(self) -> None:
        """End this try: with the job if the run was terminated, else without it."""
        if self._is_run_terminated():
            logger.info("the run was terminated: deleting TrainJob %s", self.name)
            self._delete()
        else:
            logger.info("only this pod is to go: TrainJob %s goes on, for the next try", self.name)
        raise SystemExit(128 + signal.SIGTERM)

    def _is_run_terminated(self) -> bool:
        try:
            spec = self._workflow().get("spec", {})
        except _NotFoundError:
            return True
        except ClusterError as error:
            logger.warning("%s: taken for a pod that moves", error)
            return False
        # Kubeflow Pipelines terminates a run by giving its Workflow no time; Argo's own way is `shutdown`.
        return spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))

    def _workflow(self) -> dict[str, Any]:
        get = self._objects.get_namespaced_custom_object
        place = (*WORKFLOWS, self.run.namespace, "workflows", self.run.workflow)
        return dict(self._ask("read the Workflow", get, *place))

    def _tell(self, job: Mapping[str, Any], pods: list[Any]) -> None:
        """Log what has changed: queued, restarted, and each pod's state."""
        queued = _condition(job, "Suspended")
        self._say("job", f"queued: {queued['message']}" if queued else "admitted")
        for pod in pods:
            self._say(pod.metadata.name, _state(pod))

    def _say(self, what: str, text: str) -> None:
        if self._said.get(what) != text:
            self._said[what] = text
            logger.info("%s: %s", self.name if what == "job" else what, text)

    def _pass_on_log(self, pods: list[Any]) -> None:
        """Print what the first node's newest pod has logged since the last look."""
        firsts = [pod for pod in pods if "-node-0-0-" in pod.metadata.name and _has_log(pod)]
        if not firsts:
            return
        pod = max(firsts, key=lambda pod: pod.metadata.creation_timestamp)
        name, last = pod.metadata.name, ""
        if self._seen[0] == name:
            last = self._seen[1]
        for line in self._log(name, timestamps=True).splitlines():
            at, _, text = line.partition(" ")
            if at > last:
                last = at
                logger.info("node 0 | %s", text)
        self._seen = (name, last)

    def _log(self, pod: str, *, timestamps: bool = False, tail_lines: int = 1000) -> str:
        try:
            return str(
                self._ask(
                    "read a pod's log", self._core.read_namespaced_pod_log, pod, self.run.namespace,
                    timestamps=timestamps, tail_lines=tail_lines,
                )
            )  # fmt: skip
        except ClusterError as error:  # the job matters more than what it says
            logger.warning("%s", error)
            return ""

    def _failure(self, condition: Mapping[str, Any], pods: list[Any]) -> str:
        where = f"TrainJob {self.run.namespace}/{self.name}"
        for pod in pods:
            if pod.status.phase == "Failed":
                lines = self._log(pod.metadata.name, tail_lines=LAST_LINES).splitlines()
                for line in lines:
                    logger.error("%s | %s", pod.metadata.name, line)
                return (
                    f"{where}: failed: {_state(pod)} in pod {pod.metadata.name};"
                    " its last lines are above, the next try goes on from the state saved last"
                )
        return f"{where}: failed: {condition['message']}; 'kubectl describe' tells more"

    def _get(self) -> dict[str, Any] | None:
        get = self._objects.get_namespaced_custom_object
        try:
            return dict(self._ask("read", get, *self._place(), self.name))
        except _NotFoundError:
            return None

    def _pods(self) -> list[Any]:
        found = self._ask(
            "list pods", self._core.list_namespaced_pod, self.run.namespace,
            label_selector=f"{OF_JOB}={self.name}",
        )  # fmt: skip
        return list(found.items)

    def _delete(self) -> None:
        """Delete the job and wait until it, and so its pods, are gone."""
        try:
            self._ask(
                "delete", self._objects.delete_namespaced_custom_object, *self._place(), self.name,
                propagation_policy="Foreground",
            )  # fmt: skip
        except _NotFoundError:
            return
        while self._get() is not None:
            time.sleep(min(1.0, self.poll_s))

    def _place(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.run.namespace, PLURAL

    def _ask(self, what: str, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call the API; try again while it is away or busy, for AWAY_S in all. Raises ClusterError."""
        deadline, pause = time.monotonic() + AWAY_S, min(1.0, self.poll_s)
        while True:
            try:
                return call(*args, **options, _request_timeout=CALL_S)
            except (ApiException, urllib3.exceptions.HTTPError) as error:
                problem = _problem(f"{what} TrainJob {self.run.namespace}/{self.name}", error)
                if problem or time.monotonic() > deadline:
                    raise problem or ClusterError(
                        f"the Kubernetes API has been away for {AWAY_S / 60:.0f} minutes; TrainJob"
                        f" {self.name} goes on, and the next try finds it"
                    ) from error
                logger.warning("the Kubernetes API is away (%s); trying again", _short(error))
            time.sleep(pause)
            pause = min(30.0, 2 * pause)


class _ConflictError(ClusterError):
    """The object is there already."""


class _NotFoundError(ClusterError):
    """The object is not there."""


def _configure() -> None:
    """Find the API: in a pod by its service account, else by the current kubeconfig."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except (config.ConfigException, OSError) as error:
            raise ClusterError(
                f"no access to Kubernetes ({_short(error)}); run this in a pod with a service account,"
                " or set KUBECONFIG"
            ) from None


def _problem(what: str, error: Exception) -> ClusterError | None:
    """What the API refuses for good, as one line; None for what may pass."""
    if not isinstance(error, ApiException) or error.status in PASSING or not error.status:
        return None
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = str(error.reason)
    if error.status == 404:
        hint = (
            "; is Kubeflow Trainer installed? 'clipflow doctor' tells" if "create" in what else ""
        )
        return _NotFoundError(f"can't {what}: not found: {said}{hint}")
    if error.status == 409:
        return _ConflictError(f"can't {what}: {said}")
    hint = {
        401: "the pod's token is not accepted; check the run's service account",
        403: "give the run's service account the role in k8s/, or submit with --service-account",
    }.get(error.status, "'clipflow doctor' checks the cluster")
    return ClusterError(f"can't {what}: Kubernetes answered {error.status}: {said}; {hint}")


def _short(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return " ".join(str(error).split())[:200]


def _condition(job: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """A job's condition if it is true."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] == kind and condition["status"] == "True":
            return dict(condition)
    return None


def _has_log(pod: Any) -> bool:
    return pod.status.phase in {"Running", "Succeeded", "Failed"}


def _state(pod: Any) -> str:
    """What a pod does, in a few words: its phase and why."""
    for status in pod.status.container_statuses or []:
        ended, waits = status.state.terminated, status.state.waiting
        if ended:
            return f"ended with {ended.exit_code} ({ended.reason or 'no reason given'})"
        if waits:
            return f"waits: {waits.reason} {waits.message or ''}".strip()
        if status.restart_count:
            return f"{pod.status.phase.lower()}, restarted {status.restart_count} times"
    if pod.status.reason:  # Evicted, Preempted, ...
        return f"{pod.status.phase.lower()} ({pod.status.reason})"
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"not scheduled: {condition.message}"
    return str(pod.status.phase).lower()
