"""What every pod of a pipeline has: its image, its environment and secrets, scratch, and patience.

The names are those of `k8s/`. Only kfp-kubernetes is used, which has no service account per task: a run's
is given when it is submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from kfp import kubernetes
from kfp.dsl.pipeline_channel import PipelineChannel

CONFIG = "clipflow"
"""The ConfigMap with the addresses of everything: see k8s/."""
NEEDED = ("MLFLOW_TRACKING_URI", "CLIPFLOW_STORE")
OPTIONAL = (
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "CLIPFLOW_DATA",
    "CLIPFLOW_SCRATCH",
    "CLIPFLOW_WEBHOOK",
    "HF_HOME",
    "MLFLOW_EXPERIMENT_NAME",
    "OPENAI_BASE_URL",
)
SECRETS = {
    "clipflow-store": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "clipflow-mlflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
LLM = {"clipflow-llm": ("OPENAI_API_KEY",)}
"""For rewriting by a server that wants a key."""
HUB = {"clipflow-hub": ("HF_TOKEN",)}
"""For models and tokenizers that not everybody may load."""
SCRATCH = "clipflow-scratch"
"""The volume claim at /scratch: what a task that is tried again goes on from."""
IDENTITY = {
    "KFP_RUN_ID": "metadata.labels['pipeline/runid']",
    "KFP_WORKFLOW": "metadata.labels['workflows.argoproj.io/workflow']",
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
}
GPU_POOL = {"clipflow.dev/pool": "gpu"}
"""Labels of the nodes with accelerators; README has those of GKE, EKS and AKS."""
GPU_TAINTS = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
USER = 65532
RETRIES = 3
AT_ONCE = 16
"""Pods of one fan-out that run at the same time, at most."""


def furnish(
    task: Any,
    image: Any,
    name: str,
    *,
    cpu: Any = "1",
    memory: Any = "2Gi",
    secrets: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Any:
    """A task that runs in `image` with all that clipflow reads, and is tried again when it fails.

    `secrets` are those that only some tasks read; they need not be there.

    Between tries the pauses grow from one minute to half an hour: a node that went away has been
    replaced, and a server that was restarted is back.
    """
    task.set_display_name(name)
    task.set_container_image(image)
    task.set_cpu_request(cpu)
    task.set_memory_request(memory)
    task.set_memory_limit(memory)
    _register(task, cpu, memory)
    task.set_retry(
        RETRIES, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="1800s"
    )
    kubernetes.use_config_map_as_env(task, CONFIG, {key: key for key in NEEDED})
    kubernetes.use_config_map_as_env(task, CONFIG, {key: key for key in OPTIONAL}, optional=True)
    for known, optional in ((SECRETS, False), (secrets, True)):
        for secret, keys in known.items():
            kubernetes.use_secret_as_env(task, secret, {k: k for k in keys}, optional=optional)
    for variable, path in IDENTITY.items():
        kubernetes.use_field_path_as_env(task, variable, path)
    kubernetes.mount_pvc(task, SCRATCH, "/scratch")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    return task


def on_accelerators(
    task: Any, *, kind: Any, count: Any, node_selector: Any, tolerations: Any
) -> Any:
    """Send a furnished task to the pool with accelerators, which its selector and tolerations name."""
    task.set_accelerator_type(kind)
    task.set_accelerator_limit(count)
    _register(task, kind, count)
    kubernetes.add_node_selector_json(task, node_selector)
    kubernetes.add_toleration_json(task, tolerations)
    # Loader processes hand batches over in shared memory, of which a pod has 64 MB by itself.
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory")
    return task


def _register(task: Any, *values: Any) -> None:
    """Let tasks inside loops and handlers read resources from outside, which kfp's setters leave out."""
    task.register_pipeline_channels([v for v in values if isinstance(v, PipelineChannel)])
