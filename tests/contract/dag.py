"""A compiled pipeline as text that people read: a diff of it shows what a change does to the cluster.

python tests/contract/dag.py        write the summaries of all pipelines anew
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

from clipflow.submit import load

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).with_name("dags")
SHOWN_ELSEWHERE = {
    "accelerator_count",
    "accelerator_type",
    "base_image",
    "memory_limit",
    "memory_request",
}
"""Parameters that kfp makes of what a pod asks for."""
PIPELINES = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))


def describe(pipeline: Any) -> str:
    """The pipeline's parameters and tasks. Raises ParseError for an unknown field of a task's pod."""
    spec = json_format.MessageToDict(pipeline.pipeline_spec)
    platform = json_format.MessageToDict(pipeline.platform_spec)
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    pods = {name: list(_pod(values)) for name, values in configs.items()}
    shared = [
        line for line in next(iter(pods.values())) if all(line in pod for pod in pods.values())
    ]
    lines = [f"pipeline {spec['pipelineInfo']['name']}", "parameters"]
    for name, parameter in sorted(spec["root"]["inputDefinitions"]["parameters"].items()):
        value = parameter.get("defaultValue", "needed")
        default = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        shown = "a section of params.yaml" if name.endswith("_params") else default
        lines.append(f"  {name}: {parameter['parameterType'].lower()} = {shown}")
    lines += ["every pod", *(f"  {line}" for line in shared)]
    own = {name: [line for line in pod if line not in shared] for name, pod in pods.items()}
    lines += ["tasks", *_dag(spec, own, spec["root"]["dag"], "  ")]
    return "\n".join(lines) + "\n"


def _dag(
    spec: dict[str, Any], pods: dict[str, list[str]], dag: dict[str, Any], indent: str
) -> Iterator[str]:
    before = {name: set(task.get("dependentTasks", [])) for name, task in dag["tasks"].items()}
    for name in TopologicalSorter({k: sorted(before[k]) for k in sorted(before)}).static_order():
        task = dag["tasks"][name]
        component = spec["components"][task["componentRef"]["name"]]
        yield f"{indent}{name} ({task['taskInfo']['name']})"
        inner = indent + "    "
        if before[name]:
            yield f"{inner}after   {', '.join(sorted(before[name]))}"
        if loop := task.get("parameterIterator"):
            limit = task.get("iteratorPolicy", {}).get("parallelismLimit", "any number")
            items = _plain(loop["items"]["inputParameter"])
            yield f"{inner}for each of {items}, {limit} at once"
        if strategy := task.get("triggerPolicy", {}).get("strategy"):
            yield f"{inner}when    {strategy.lower()}"
        if "dag" in component:
            yield from _dag(spec, pods, component["dag"], inner)
            continue
        executor = component["executorLabel"]
        container = spec["deploymentSpec"]["executors"][executor]["container"]
        for line in (*_task(task), *_container(container), *pods.get(executor, ())):
            yield inner + line


def _task(task: dict[str, Any]) -> Iterator[str]:
    for name, source in sorted(task.get("inputs", {}).get("artifacts", {}).items()):
        yield f"reads   {name} from {_source(source)}"
    for name, source in sorted(task.get("inputs", {}).get("parameters", {}).items()):
        if not name.startswith("pipelinechannel--") and name not in SHOWN_ELSEWHERE:
            yield f"takes   {name} from {_source(source)}"
    yield f"cache   {'on' if task.get('cachingOptions', {}).get('enableCache') else 'off'}"
    if retry := task.get("retryPolicy"):
        yield (
            f"retries {retry['maxRetryCount']}, after {retry['backoffDuration']} times"
            f" {retry['backoffFactor']:g} each, at most {retry['backoffMaxDuration']}"
        )


def _source(source: dict[str, Any]) -> str:
    kind, value = next(iter(source.items()))
    match kind:
        case "taskOutputArtifact":
            return f"{value['producerTask']}.{_plain(value['outputArtifactKey'])}"
        case "taskOutputParameter":
            return f"{value['producerTask']}.{_plain(value['outputParameterKey'])}"
        case "runtimeValue":
            return _plain(str(value["constant"]))
        case "taskFinalStatus":
            return f"the end of {value['producerTask']}"
    return _plain(str(value))


def _container(container: dict[str, Any]) -> Iterator[str]:
    yield f"image   {_plain(container['image'])}"
    resources = container.get("resources", {})
    asked = {
        "cpu": resources.get("resourceCpuRequest"),
        "memory": resources.get("resourceMemoryRequest"),
        "at most": resources.get("resourceMemoryLimit"),
    }
    yield "asks    " + ", ".join(f"{name} {_plain(v)}" for name, v in asked.items() if v)
    if accelerator := resources.get("accelerator"):
        count, kind = accelerator["resourceCount"], accelerator["resourceType"]
        yield f"        {_plain(count)} of {_plain(kind)}"


def _pod(values: dict[str, Any]) -> Iterator[str]:
    """What kfp-kubernetes adds. Parsed strictly, which kfp does not do."""
    pod = json_format.MessageToDict(json_format.ParseDict(values, KubernetesExecutorConfig()))
    for kind, name, pairs, key in (
        ("secretAsEnv", "secretName", "keyToEnv", "secretKey"),
        ("configMapAsEnv", "configMapName", "keyToEnv", "configMapKey"),
    ):
        for entry in pod.pop(kind, []):
            may = " if it is there" if entry.get("optional") else ""
            keys = ", ".join(pair[key] for pair in entry[pairs])
            yield f"env     {entry[name]}{may}: {keys}"
    for entry in pod.pop("fieldPathAsEnv", []):
        yield f"env     {entry['name']}: {entry['fieldPath']}"
    for entry in pod.pop("pvcMount", []):
        claim = entry["pvcNameParameter"]["runtimeValue"]["constant"]
        yield f"mounts  {claim} at {entry['mountPath']}"
    for entry in pod.pop("emptyDirMounts", []):
        yield f"mounts  {entry.get('medium', 'a folder').lower()} at {entry['mountPath']}"
    context = pod.pop("securityContext", {})
    yield (
        f"user    {context.get('runAsUser')}, group {context.get('runAsGroup')},"
        f" non-root {context.get('runAsNonRoot')}"
    )
    if selector := pod.pop("nodeSelector", {}).get("nodeSelectorJson"):
        yield f"nodes   {_source(selector)}"
    for entry in pod.pop("tolerations", []):
        yield f"bears   {_source(entry['tolerationJson'])}"
    yield from (f"{name} {value}" for name, value in sorted(pod.items()))


def _plain(text: str) -> str:
    """A parameter's own name, where kfp has a placeholder or a channel."""
    return re.sub(r"\{\{\$\.inputs\.parameters\['(.*?)'\]\}\}", r"\1", text).replace(
        "pipelinechannel--", ""
    )


if __name__ == "__main__":
    for pipeline in PIPELINES:
        text = describe(load(ROOT / "pipelines" / f"{pipeline}.py"))
        (FOLDER / f"{pipeline}.txt").write_text(text, encoding="utf-8")
