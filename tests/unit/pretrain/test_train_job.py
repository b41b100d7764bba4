"""The TrainJob launcher against an API over HTTP, as a process that can be killed and told to go."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import pytest

from clipflow.errors import ClusterError
from clipflow.pretrain import train_job
from clipflow.pretrain.job_manifest import DIGEST, manifest
from fakes.kubernetes_api import ARGO, DROP, LOSE, TRAINER, KubernetesApi, Trainer, serve
from fakes.launcher import ARGUMENTS, PARAMS, PLACEMENT, RUN, Launcher
from manifests import schema

JOB = manifest(RUN, PLACEMENT, PARAMS, ARGUMENTS)
NAME = JOB["metadata"]["name"]


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    """A cluster in which the run's Workflow is."""
    with serve() as server:
        server.put(ARGO, RUN.namespace, "workflows", workflow())
        yield server


@pytest.fixture
def trainer(api: KubernetesApi) -> Trainer:
    return Trainer(api, RUN.namespace)


def workflow() -> dict[str, object]:
    return {"metadata": {"name": RUN.workflow, "uid": "uid-of-workflow"}, "spec": {}}


def test_the_manifest_is_one_that_trainer_takes() -> None:
    assert schema.problems(JOB) == []
    assert len(f"{NAME}-node-0-99-abcde") <= 63
    assert manifest(RUN, PLACEMENT, PARAMS, ARGUMENTS) == JOB
    others = [
        manifest(RUN, PLACEMENT, PARAMS.replace("10", "20"), ARGUMENTS),
        manifest(RUN, PLACEMENT, PARAMS, [*ARGUMENTS, "--rewrites", "s3://b/rewrites"]),
        manifest(replace(RUN, id="6" + RUN.id[1:]), PLACEMENT, PARAMS, ARGUMENTS),
    ]
    assert len({NAME, *(other["metadata"]["name"] for other in others)}) == 4
    environ = {e["name"]: e["value"] for e in JOB["spec"]["trainer"]["env"]}
    assert json.loads(environ["CLIPFLOW_PARAMS"]) == {"pretrain": {"steps": 10}}
    reserved = ("NNODES", "NPROC_PER_NODE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert not {f"PET_{name}" for name in reserved} & set(environ)  # Trainer refuses them
    assert "ACCELERATE_USE_CPU" not in environ
    on_cpus = PLACEMENT.model_copy(update={"accelerators_per_node": 0})
    spec = manifest(RUN, on_cpus, PARAMS, ARGUMENTS)["spec"]["trainer"]
    assert {"name": "ACCELERATE_USE_CPU", "value": "1"} in spec["env"]
    assert spec["numProcPerNode"] == 1
    assert spec["resourcesPerNode"]["limits"] == {"memory": "64Gi"}


def test_a_job_is_created_followed_and_over(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    launcher = Launcher(api, tmp_path)
    job = trainer.wait()
    assert job["metadata"]["ownerReferences"][0] == {
        "apiVersion": ARGO, "kind": "Workflow", "name": RUN.workflow, "uid": "uid-of-workflow",
    }  # fmt: skip
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "clipflow"
    trainer.start(waiting="0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
    launcher.wait_for("node-0-1-00001: not scheduled: 0/3 nodes are available")
    trainer.start()
    trainer.write("step 1")
    launcher.wait_for("node 0 | step 1")
    trainer.write("step 2")
    trainer.write("of another node", node=1)
    launcher.wait_for("node 0 | step 2")
    trainer.complete()
    assert launcher.wait() == 0
    assert launcher.log.count("step 1\n") == launcher.log.count("step 2\n") == 1
    assert "of another node" not in launcher.log
    assert len(api.asked("post", "trainjobs")) == 1
    assert NAME in trainer.jobs


def test_a_retry_finds_the_job_again(api: KubernetesApi, trainer: Trainer, tmp_path: Path) -> None:
    first = Launcher(api, tmp_path)
    first.wait_for("created TrainJob")
    trainer.start()
    first.send(signal.SIGKILL)
    first.wait()
    uid = trainer.wait()["metadata"]["uid"]
    second = Launcher(api, tmp_path)
    second.wait_for(f"TrainJob {NAME} is there already: going on with it")
    trainer.complete()
    assert second.wait() == 0
    assert trainer.wait()["metadata"]["uid"] == uid
    assert len(api.asked("post", "trainjobs")) == 1


def test_an_answer_that_is_lost_makes_no_second_job(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    api.faults.extend([0, 0, LOSE])  # the job and the Workflow are read, then the job is created
    launcher = Launcher(api, tmp_path)
    launcher.wait_for("is there already")
    trainer.complete()
    assert launcher.wait() == 0
    assert len(api.asked("post", "trainjobs")) == 2
    assert list(trainer.jobs) == [NAME]


def test_a_job_of_another_spec_is_not_taken_for_ours(api: KubernetesApi, tmp_path: Path) -> None:
    theirs = json.loads(json.dumps(JOB))
    theirs["metadata"]["annotations"][DIGEST] = "of-another"
    api.put(TRAINER, RUN.namespace, "trainjobs", theirs)
    launcher = Launcher(api, tmp_path)
    assert launcher.wait() == 2
    assert "is there with another spec (digest of-another, expected " in launcher.log
    assert f"kubectl delete trainjob -n team {NAME}" in launcher.log


@pytest.mark.parametrize("slow_deletion_s", [0, 0.5])
def test_a_job_that_failed_is_made_anew(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path, slow_deletion_s: float
) -> None:
    api.put(TRAINER, RUN.namespace, "trainjobs", json.loads(json.dumps(JOB)))
    trainer.fail()
    uid = trainer.wait()["metadata"]["uid"]
    api.slow_deletion_s = slow_deletion_s
    launcher = Launcher(api, tmp_path)
    launcher.wait_for("failed in an earlier try: made anew")
    launcher.wait_for("created TrainJob")
    assert trainer.wait()["metadata"]["uid"] != uid
    trainer.complete()
    assert launcher.wait() == 0


def test_the_pod_that_failed_first_is_named(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    launcher = Launcher(api, tmp_path)
    trainer.wait()
    trainer.start()
    trainer.write("CUDA error: an illegal memory access", node=1)
    trainer.end_pod(1, 134, "Error")
    launcher.wait_for("node-0-1-00001: ended with 134")
    trainer.start()  # JobSet starts all pods anew
    launcher.wait_for("node-0-0-00002: running")
    trainer.write("out of memory", node=1)
    trainer.write("connection closed by peer", node=0)
    trainer.end_pod(1, 137, "OOMKilled")
    trainer.end_pod(0, 1, "Error")
    trainer.fail()
    assert launcher.wait() == 2
    assert (
        f"clipflow: TrainJob team/{NAME}: failed: pod {NAME}-node-0-1-00002 ended with 137 (OOMKilled);"
        " the next try goes on from the state that was saved last\n"
    ) in launcher.log
    assert f"{NAME}-node-0-1-00002 | out of memory" in launcher.log


def test_a_failure_without_pods_says_what_jobset_says(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    launcher = Launcher(api, tmp_path)
    trainer.wait()
    trainer.fail("jobset failed due to reaching max number of restarts")
    assert launcher.wait() == 2
    assert "failed: jobset failed due to reaching max number of restarts;" in launcher.log


def test_preempted_and_queued_it_goes_on(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    launcher = Launcher(api, tmp_path)
    trainer.wait()
    trainer.queue()
    launcher.wait_for("queued: TrainJob is suspended")
    trainer.admit()
    launcher.wait_for(f"{NAME}: admitted")
    trainer.start()
    trainer.write("step 7")
    launcher.wait_for("step 7")
    trainer.preempt_pod(1)
    launcher.wait_for("node-0-1-00001: failed (Preempted)")
    why = "insufficient unused quota for nvidia.com/gpu in flavor gpu, 4 more needed"
    labels = {"kueue.x-k8s.io/job-uid": trainer.wait()["metadata"]["uid"]}
    conditions = [{"type": "QuotaReserved", "status": "False", "message": why}]
    workload = {"metadata": {"name": "w", "labels": labels}, "status": {"conditions": conditions}}
    api.put("kueue.x-k8s.io/v1beta2", RUN.namespace, "workloads", workload)
    trainer.queue()
    launcher.wait_for(f"queued: {why}")
    time.sleep(1)  # ten looks: there is no limit to waiting
    trainer.admit()
    trainer.start()
    trainer.write("step 8")
    launcher.wait_for("node 0 | step 8")
    trainer.complete()
    assert launcher.wait() == 0
    assert launcher.log.count("queued") == 2


@pytest.mark.parametrize("spec", [{"activeDeadlineSeconds": 0}, {"shutdown": "Terminate"}, None])
def test_terminating_the_run_deletes_the_job_at_once(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path, spec: dict[str, object] | None
) -> None:
    launcher = Launcher(api, tmp_path)
    trainer.wait()
    trainer.start()
    launcher.wait_for("node-0-0-00001: running")
    workflows = api.all(ARGO, RUN.namespace, "workflows")
    if spec:
        workflows[RUN.workflow]["spec"] = spec
    else:
        workflows.clear()
    at = time.monotonic()
    launcher.send(signal.SIGTERM)
    while not api.asked("delete", NAME) and time.monotonic() < at + 60:
        time.sleep(0.005)
    assert time.monotonic() - at < 1  # Kubeflow's launcher is dead by now, and the pod ends
    assert launcher.wait() == 128 + signal.SIGTERM
    assert not trainer.jobs
    assert api.asked("delete", NAME)[0].query["propagationPolicy"] == "Foreground"


def test_an_evicted_task_leaves_the_job_to_the_next_try(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    launcher = Launcher(api, tmp_path)
    launcher.wait_for("created TrainJob")
    launcher.send(signal.SIGTERM)
    assert launcher.wait() == 128 + signal.SIGTERM
    assert "only this pod is to go" in launcher.log
    assert NAME in trainer.jobs
    assert not api.asked("delete", NAME)


def test_told_to_go_while_the_api_is_away_it_goes(api: KubernetesApi, tmp_path: Path) -> None:
    launcher = Launcher(api, tmp_path, away_s=1000)
    launcher.wait_for("created TrainJob")
    api.is_away = True
    launcher.wait_for("the Kubernetes API is away")
    launcher.send(signal.SIGTERM)
    assert launcher.wait(60) == 128 + signal.SIGTERM
    assert "taken for a pod that moves" in launcher.log


def test_hiccups_are_outlasted(api: KubernetesApi, trainer: Trainer, tmp_path: Path) -> None:
    api.faults.extend(islice(cycle([500, 0, DROP, 0, 429, 503, 0]), 60))
    launcher = Launcher(api, tmp_path)
    trainer.wait()
    trainer.start()
    trainer.write("step 1")
    launcher.wait_for("step 1")
    while api.faults:
        time.sleep(0.05)
    trainer.complete()
    assert launcher.wait() == 0
    assert "the Kubernetes API is away (503" in launcher.log
    assert list(trainer.jobs) == [NAME]


def test_a_long_absence_ends_the_try_and_not_the_job(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    launcher = Launcher(api, tmp_path, away_s=1)
    launcher.wait_for("created TrainJob")
    api.is_away = True
    assert launcher.wait() == 2
    assert f"TrainJob team/{NAME}: the Kubernetes API is away (Remote end closed" in launcher.log
    api.is_away = False
    second = Launcher(api, tmp_path)
    trainer.complete()
    assert second.wait() == 0


def test_a_job_that_somebody_deletes_is_an_error(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    launcher = Launcher(api, tmp_path)
    launcher.wait_for("created TrainJob")
    trainer.jobs.clear()
    assert launcher.wait() == 2
    assert f"TrainJob team/{NAME}: deleted by somebody while it ran" in launcher.log


def test_what_trainer_does_not_know_is_refused(api: KubernetesApi, tmp_path: Path) -> None:
    typo = [{"key": "nvidia.com/gpu", "oprator": "Exists"}]
    launcher = Launcher(api, tmp_path, placement=PLACEMENT.model_copy(update={"tolerations": typo}))
    assert launcher.wait() == 2
    assert 'Kubernetes answered 400: strict decoding error: unknown field "spec.' in launcher.log
    assert 'tolerations[0].oprator"' in launcher.log
    assert launcher.log.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token": "another"}, "Kubernetes answered 401: Unauthorized; the pod's token"),
        ({"forbidden": {("post", "trainjobs")}}, "answered 403: trainjobs is forbidden: User"),
        ({"absent": {ARGO}}, "read Workflow team/laclip-x7k2p: Kubernetes answered 404"),
        ({"absent": {TRAINER}}, f"{NAME}: this cluster has no {TRAINER}; install Kubeflow Trainer"),
    ],
)
def test_refusals_are_one_line(
    api: KubernetesApi, tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    vars(api).update(change)
    launcher = Launcher(api, tmp_path)
    assert launcher.wait() == 2
    assert launcher.log.startswith("clipflow: can't ")
    assert expected in launcher.log
    assert launcher.log.count("\n") == 1


def test_without_a_right_to_workflows_it_trains_all_the_same(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    api.forbidden.add(("get", "workflows"))
    launcher = Launcher(api, tmp_path)
    assert trainer.wait()["metadata"]["ownerReferences"] == []
    trainer.complete()
    assert launcher.wait() == 0
    assert "the job will outlive the Workflow" in launcher.log


def test_a_log_that_is_refused_stops_nothing(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path
) -> None:
    api.forbidden.add(("get", "pods/log"))
    launcher = Launcher(api, tmp_path)
    trainer.wait()
    trainer.start()
    launcher.wait_for("can't read the log of pod")
    trainer.complete()
    assert launcher.wait() == 0


def test_the_end_of_a_run_ends_its_jobs(
    api: KubernetesApi, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(api.kubeconfig(tmp_path))
    )
    assert train_job.end_all(RUN) == []
    jobs = {
        "running": JOB,
        "complete": manifest(RUN, PLACEMENT, PARAMS, ["complete"]),
        "others": manifest(replace(RUN, id="of-another-run"), PLACEMENT, PARAMS, ARGUMENTS),
    }
    for job in jobs.values():
        api.put(TRAINER, RUN.namespace, "trainjobs", json.loads(json.dumps(job)))
    over = trainer.jobs[jobs["complete"]["metadata"]["name"]]
    over["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert train_job.end_all(RUN) == [NAME]
    assert len(trainer.jobs) == 2
    api.forbidden.add(("get", "trainjobs"))
    with pytest.raises(ClusterError, match="answered 403"):
        train_job.end_all(RUN)
    api.absent.add(TRAINER)
    assert train_job.end_all(RUN) == []
