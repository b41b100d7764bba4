"""pretrain over several nodes: a TrainJob of Kubeflow Trainer v2, started, followed and ended from a task.

The task's pod does not train. Whatever happens to it, the job goes on: its name comes from the run and from
what is trained, so that the next try finds it again. Only when the run itself is terminated is the job
deleted: at once on SIGTERM, which leaves Kubeflow's pods about a second, else by the run's last task, which
calls `end_all`. Whoever deletes the run's Workflow deletes the job with it.

Kubeflow's SDK is not used: its waiting has a deadline, and a job may stand in a queue for days. The job is
looked at every few seconds instead of watched, so that no stream has to be kept alive for as long.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from clipflow.errors import ClipflowError, ClusterError
from clipflow.pretrain.api import Api, ConflictError, NotFoundError, RefusedError
from clipflow.pretrain.job_manifest import DIGEST, RUN_LABEL, TRAINER, Run, manifest
from clipflow.pretrain.job_pods import Pods
from clipflow.pretrain.placement import Placement

logger = logging.getLogger(__name__)

WORKFLOWS = ("argoproj.io", "v1alpha1")
KUEUE = ("kueue.x-k8s.io", "v1beta2")
POLL_S = 10.0
LEAVE_S = 20.0
"""How long the API may be away once this pod is to go."""


def run(
    run: Run, placement: Placement, params: str, arguments: list[str], *, poll_s: float = POLL_S
) -> None:
    """Start the job or find the one that an earlier try started, and follow it to its end.

    There is no limit to how long it may be queued or run. Raises ClusterError if the API refuses, or is
    away for long, and ClipflowError if the job fails; SystemExit(143) on SIGTERM.
    """
    jobs = _Jobs(Api(), run)
    body = manifest(run, placement, params, arguments)
    name = body["metadata"]["name"]
    with _raising_on_sigterm():
        try:
            jobs.start(body, poll_s)
            jobs.follow(name, poll_s)
        except _SigtermError:
            jobs.leave(name)
            raise SystemExit(128 + signal.SIGTERM) from None


def end_all(run: Run) -> list[str]:
    """Delete the jobs of a run that is over, but for those that ended by themselves; return their names.

    A cluster without Trainer has none. Raises ClusterError if the API refuses or is away.
    """
    jobs = _Jobs(Api(), run)
    running = [name for name, job in jobs.all().items() if not _is_over(job)]
    for name in running:
        jobs.delete(name)
        logger.info("the run is over: deleted TrainJob %s", name)
    return running


class _Jobs:
    """The TrainJobs of a run."""

    def __init__(self, api: Api, run: Run) -> None:
        self.api, self.run = api, run
        self._place = (*TRAINER, run.namespace, "trainjobs")
        self._said = ""
        self._asks_kueue = True

    def start(self, body: Mapping[str, Any], poll_s: float) -> None:
        """Create the job unless it is there; one that has failed is replaced."""
        name = body["metadata"]["name"]
        found = self._get(name)
        if found and _condition(found, "Failed"):
            logger.info("TrainJob %s failed in an earlier try: made anew", name)
            self.delete(name)
            found = self._get(name)
        while found and (_is_being_deleted(found) or _condition(found, "Failed")):
            time.sleep(poll_s)
            found = self._get(name)
        if not found:
            try:
                self._create(body)
                return
            except ConflictError:  # the answer to an earlier call was lost
                found = self._get(name) or {}
        theirs = found.get("metadata", {}).get("annotations", {}).get(DIGEST)
        if theirs != body["metadata"]["annotations"][DIGEST]:
            raise ClusterError(
                f"{self._called(name)}: is there with another spec (digest {theirs}, expected"
                f" {body['metadata']['annotations'][DIGEST]}); delete it with"
                f" 'kubectl delete trainjob -n {self.run.namespace} {name}' and run this again"
            )
        logger.info("TrainJob %s is there already: going on with it", name)

    def follow(self, name: str, poll_s: float) -> None:
        """Wait for the end, and say meanwhile what happens."""
        pods = Pods(self.api, self.run.namespace, name)
        while True:
            job = self._get(name)
            if not job or _is_being_deleted(job):
                raise ClipflowError(
                    f"{self._called(name)}: deleted by somebody while it ran; run this again to go on from"
                    " the state that was saved last"
                )
            self._tell(name, job)
            now = pods.now()
            pods.tell(now)
            if _condition(job, "Complete"):
                logger.info("TrainJob %s is complete", name)
                return
            if failed := _condition(job, "Failed"):
                raise ClipflowError(
                    f"{self._called(name)}: failed: {pods.failure(now) or failed['message']};"
                    " the next try goes on from the state that was saved last"
                )
            time.sleep(poll_s)

    def leave(self, name: str) -> None:
        """End this try: with the job if the run was terminated, else without it."""
        if self._is_run_terminated():
            self.delete(name, patience_s=LEAVE_S)
            logger.info("the run was terminated: deleted TrainJob %s", name)
        else:
            logger.info("only this pod is to go: TrainJob %s goes on, for the next try", name)

    def all(self) -> dict[str, dict[str, Any]]:
        """The jobs by name; none where Trainer is not installed."""
        try:
            found = self.api.ask(
                f"list the TrainJobs of {self.run.namespace}",
                self.api.objects.list_namespaced_custom_object, *self._place,
                label_selector=f"{RUN_LABEL}={self.run.id}",
            )  # fmt: skip
        except NotFoundError:
            return {}
        return {job["metadata"]["name"]: job for job in found["items"]}

    def delete(self, name: str, **options: Any) -> None:
        """Delete a job, which goes when its pods are gone."""
        with suppress(NotFoundError):
            self.api.ask(
                f"delete {self._called(name)}", self.api.objects.delete_namespaced_custom_object,
                *self._place, name, propagation_policy="Foreground", **options,
            )  # fmt: skip

    def _create(self, body: Mapping[str, Any]) -> None:
        name = body["metadata"]["name"]
        owned = {**body, "metadata": {**body["metadata"], "ownerReferences": self._owners()}}
        try:
            # Strict: without it the API drops fields that it does not know, and says nothing.
            self.api.ask(
                f"create {self._called(name)}", self.api.objects.create_namespaced_custom_object,
                *self._place, owned, field_validation="Strict",
            )  # fmt: skip
        except NotFoundError as error:
            raise ClusterError(
                f"can't create {self._called(name)}: this cluster has no {'/'.join(TRAINER)}; install"
                " Kubeflow Trainer 2.3, or train with num_nodes=1"
            ) from error
        logger.info("created TrainJob %s in %s", name, self.run.namespace)

    def _owners(self) -> list[dict[str, Any]]:
        """The run's Workflow, with which a job goes; nobody, with a word about it, if it can't be read."""
        try:
            uid = self._workflow()["metadata"]["uid"]
        except RefusedError as error:
            logger.warning("%s; the job will outlive the Workflow", error)
            return []
        owner = {"apiVersion": "/".join(WORKFLOWS), "kind": "Workflow", "name": self.run.workflow}
        return [{**owner, "uid": uid}]

    def _get(self, name: str) -> dict[str, Any] | None:
        get = self.api.objects.get_namespaced_custom_object
        with suppress(NotFoundError):
            return dict(self.api.ask(f"read {self._called(name)}", get, *self._place, name))
        return None

    def _tell(self, name: str, job: Mapping[str, Any]) -> None:
        """Log that it is queued and why, or no longer."""
        queued = _condition(job, "Suspended")
        if not (queued or self._said):
            return
        text = f"queued: {self._why_queued(job) or queued['message']}" if queued else "admitted"
        if text != self._said:
            self._said = text
            logger.info("%s: %s", name, text)

    def _why_queued(self, job: Mapping[str, Any]) -> str | None:
        """What Kueue says of the job, if it may be asked."""
        if not self._asks_kueue:
            return None
        try:
            found = self.api.ask(
                "list Kueue's Workloads", self.api.objects.list_namespaced_custom_object,
                *KUEUE, self.run.namespace, "workloads", patience_s=0,
                label_selector=f"kueue.x-k8s.io/job-uid={job['metadata']['uid']}",
            )  # fmt: skip
        except (NotFoundError, RefusedError):
            self._asks_kueue = False
            return None
        except ClusterError:
            return None
        for workload in found["items"]:
            for condition in workload.get("status", {}).get("conditions", []):
                if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                    return str(condition["message"])
        return None

    def _is_run_terminated(self) -> bool:
        try:
            spec = self._workflow(patience_s=LEAVE_S).get("spec", {})
        except NotFoundError:
            return True
        except ClusterError as error:
            logger.warning("%s; taken for a pod that moves", error)
            return False
        # Kubeflow Pipelines terminates a run by giving its Workflow no time; Argo's own way is `shutdown`.
        return spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))

    def _workflow(self, **options: Any) -> dict[str, Any]:
        get = self.api.objects.get_namespaced_custom_object
        what = f"read Workflow {self.run.namespace}/{self.run.workflow}"
        place = (*WORKFLOWS, self.run.namespace, "workflows", self.run.workflow)
        return dict(self.api.ask(what, get, *place, **options))

    def _called(self, name: str) -> str:
        return f"TrainJob {self.run.namespace}/{name}"


class _SigtermError(BaseException):
    """The pod is to go."""


@contextmanager
def _raising_on_sigterm() -> Iterator[None]:
    """Have the first SIGTERM end whatever is being waited for; later ones say nothing new."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise _SigtermError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _condition(job: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A job's condition if it is true, else nothing."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if c["type"] == kind and c["status"] == "True"), {})


def _is_over(job: Mapping[str, Any]) -> bool:
    return bool(_condition(job, "Complete") or _condition(job, "Failed"))


def _is_being_deleted(job: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in job["metadata"]
