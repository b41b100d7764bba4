"""The TrainJob that pretrain over several nodes is, as Kubeflow Trainer v2 takes it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from clipflow.errors import ClipflowError
from clipflow.pretrain.placement import Placement

TRAINER = ("trainer.kubeflow.org", "v1alpha1")
RUNTIME = "clipflow-torch"
"""The TrainingRuntime in `k8s/`: pods' environment, secrets, scratch and shared memory."""
QUEUE = "clipflow"
"""The LocalQueue of Kueue; without Kueue the label means nothing."""
RUN_LABEL = "clipflow.dev/run"
DIGEST = "clipflow.dev/spec-digest"
PARAMS = "/tmp/params.json"
"""Where pods of a job find their params file."""
SCRIPT = f'printf %s "$CLIPFLOW_PARAMS" > {PARAMS} && exec torchrun -m clipflow "$@"'
SAVE_S = 100
"""How long torchrun lets processes save after SIGTERM (by itself 30 s); the runtime gives pods 120 s."""
MEET_S = 3600
"""How long pods wait for each other (by itself 600 s): nodes may have to be made, and fetch the image."""


@dataclass(frozen=True)
class Run:
    """The pipeline run that a job belongs to."""

    id: str
    workflow: str
    """Name of its Argo Workflow."""
    namespace: str

    @classmethod
    def of_environment(cls) -> Run:
        """The run of this task. Raises ClipflowError outside a pipeline."""
        names = "KFP_RUN_ID", "KFP_WORKFLOW", "POD_NAMESPACE"
        for name in names:
            if not os.environ.get(name):
                raise ClipflowError(
                    f"{name}: not in the environment; pipelines set it from the pod's labels: run this as"
                    " a task of one"
                )
        return cls(*(os.environ[name] for name in names))


def manifest(run: Run, placement: Placement, params: str, arguments: list[str]) -> dict[str, Any]:
    """The TrainJob. `params`: text of a params file, which `arguments` call PARAMS.

    Its name comes from the run and the spec: another try makes the same job, another training another.
    """
    amount = {"memory": placement.memory}
    processes = max(1, placement.accelerators_per_node)
    environ = {
        "CLIPFLOW_PARAMS": params.replace("$", "$$"),  # Kubernetes takes $(NAME) for a variable
        "CLIPFLOW_IMAGE": placement.image,
        "KFP_RUN_ID": run.id,
        "KFP_WORKFLOW": run.workflow,
        "PET_RDZV_CONF": f"timeout={MEET_S}",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SAVE_S),
    }
    if placement.accelerators_per_node:
        amount[placement.accelerator] = str(placement.accelerators_per_node)
    else:
        environ["ACCELERATE_USE_CPU"] = "1"
    pods = {"nodeSelector": placement.node_selector, "tolerations": placement.tolerations}
    node = {"name": "node", "template": {"spec": {"template": {"spec": pods}}}}
    spec = {
        "runtimeRef": {"apiGroup": TRAINER[0], "kind": "TrainingRuntime", "name": RUNTIME},
        "trainer": {
            "image": placement.image,
            "command": ["sh", "-c", SCRIPT, "torchrun"],
            "args": arguments,
            "env": [{"name": name, "value": value} for name, value in environ.items()],
            "numNodes": placement.num_nodes,
            "numProcPerNode": processes,
            "resourcesPerNode": {"limits": amount, "requests": {"cpu": placement.cpu, **amount}},
        },
        "runtimePatches": [
            {
                "manager": "clipflow.dev/pretrain",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}},
            }
        ],
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "apiVersion": "/".join(TRAINER),
        "kind": "TrainJob",
        "metadata": {
            "name": f"pretrain-{run.id[:8]}-{digest[:8]}".lower(),
            "namespace": run.namespace,
            "labels": {"kueue.x-k8s.io/queue-name": QUEUE, RUN_LABEL: run.id},
            "annotations": {DIGEST: digest},
        },
        "spec": spec,
    }
