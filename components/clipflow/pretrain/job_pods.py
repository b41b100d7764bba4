"""The pods of a TrainJob: what each does, what the first one writes, and which failed first."""

from __future__ import annotations

import logging
from typing import Any

from clipflow.errors import ClusterError
from clipflow.pretrain.api import Api

logger = logging.getLogger(__name__)

JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
CONTAINER = "node"
"""The container that trains, in Trainer's runtimes; a mesh may add others."""
LINES = 1000
"""Lines of the log that are caught up with at one look."""
LAST_LINES = 20
"""Lines of a failed pod's log that are shown."""


class Pods:
    """The pods of one job."""

    def __init__(self, api: Api, namespace: str, job: str) -> None:
        self.api, self.namespace, self.job = api, namespace, job
        self._said: dict[str, str] = {}
        self._log_of, self._log_until = "", ""

    def now(self) -> list[Any]:
        """The pods that there are."""
        found = self.api.ask(
            f"list the pods of TrainJob {self.namespace}/{self.job}",
            self.api.core.list_namespaced_pod, self.namespace, label_selector=f"{JOB_LABEL}={self.job}",
        )  # fmt: skip
        return list(found.items)

    def tell(self, pods: list[Any]) -> None:
        """Log each pod's state if it has changed, and what node 0 has written since the last look."""
        for pod in pods:
            name, what = pod.metadata.name, state(pod)
            if self._said.get(name) != what:
                self._said[name] = what
                logger.info("%s: %s", name, what)
        firsts = [
            pod for pod in pods if f"-{CONTAINER}-0-0-" in pod.metadata.name and _has_log(pod)
        ]
        if firsts:
            self._pass_on(max(firsts, key=lambda pod: pod.metadata.creation_timestamp))

    def failure(self, pods: list[Any]) -> str | None:
        """Log the last lines of the pod that failed first, and say how it ended; the others follow it."""
        failed = [pod for pod in pods if pod.status.phase == "Failed"]
        if not failed:
            return None
        first = min(failed, key=_ended_at)
        for line in self._log(first, tail_lines=LAST_LINES):
            logger.error("%s | %s", first.metadata.name, line)
        return f"pod {first.metadata.name} {state(first)}"

    def _pass_on(self, pod: Any) -> None:
        if pod.metadata.name != self._log_of:
            self._log_of, self._log_until = pod.metadata.name, ""
        for line in self._log(pod, timestamps=True, tail_lines=LINES):
            at, _, text = line.partition(" ")
            if at > self._log_until:
                self._log_until = at
                logger.info("node 0 | %s", text)

    def _log(self, pod: Any, **options: Any) -> list[str]:
        """Lines of a pod's log; none if they can't be had, for the job matters more than what it says."""
        name = pod.metadata.name
        try:
            text = self.api.ask(
                f"read the log of pod {name}", self.api.core.read_namespaced_pod_log,
                name, self.namespace, container=CONTAINER, patience_s=0, **options,
            )  # fmt: skip
        except ClusterError as error:
            logger.warning("%s", error)
            return []
        return str(text).splitlines()


def state(pod: Any) -> str:
    """What a pod does, in a few words: its phase and why."""
    status = pod.status
    if status.reason:  # Evicted, Preempted, ...
        return (
            f"{status.phase.lower()} ({': '.join(filter(None, (status.reason, status.message)))})"
        )
    for container in status.container_statuses or []:
        ended, waits = container.state.terminated, container.state.waiting
        if container.name != CONTAINER:
            continue
        if ended:
            return f"ended with {ended.exit_code} ({ended.reason or 'no reason given'})"
        if waits:
            return f"waits: {waits.reason} {waits.message or ''}".strip()
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"not scheduled: {condition.message}"
    return str(status.phase).lower()


def _has_log(pod: Any) -> bool:
    return pod.status.phase in {"Running", "Succeeded", "Failed"}


def _ended_at(pod: Any) -> str:
    """When its container ended, for ordering; one that was taken away counts as the cause."""
    for container in pod.status.container_statuses or []:
        if container.name == CONTAINER and container.state.terminated:
            return str(container.state.terminated.finished_at)
    return ""
