"""The pretrain stage as Kubeflow components: where it is placed, then the training itself."""

from kfp import dsl

from clipflow.image import CPU_IMAGE, GPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def place(
    num_nodes: int,
    accelerator: str,
    accelerators_per_node: int,
    cpu: str,
    memory: str,
    node_selector: dict,  # type: ignore[type-arg]
    tolerations: list,  # type: ignore[type-arg]
    image: str,
    pod_accelerators: dsl.OutputPath(str),  # type: ignore[valid-type]
    task_accelerators: dsl.OutputPath(str),  # type: ignore[valid-type]
    pod_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    pod_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
    pod_node_selector: dsl.OutputPath(dict),  # type: ignore[valid-type]
    placement: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Say what the pods need: that of pretrain everything, or little if it only starts a TrainJob."""
    import json
    from pathlib import Path

    from clipflow.pretrain.placement import Placement

    found = Placement(
        num_nodes=num_nodes,
        accelerator=accelerator,
        accelerators_per_node=accelerators_per_node,
        cpu=cpu,
        memory=memory,
        node_selector=node_selector,
        tolerations=tolerations,
        image=image,
    )
    Path(pod_accelerators).write_text(str(found.pod.accelerators), encoding="utf-8")
    Path(task_accelerators).write_text(str(min(1, accelerators_per_node)), encoding="utf-8")
    Path(pod_cpu).write_text(found.pod.cpu, encoding="utf-8")
    Path(pod_memory).write_text(found.pod.memory, encoding="utf-8")
    Path(pod_node_selector).write_text(json.dumps(found.pod.node_selector), encoding="utf-8")
    Path(placement).write_text(found.model_dump_json(), encoding="utf-8")


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pretrain(
    params: str,
    placement: str,
    pairs: dsl.Input[dsl.Dataset],
    pairs_digest: str,
    rewrites: dsl.Input[dsl.Dataset],
    rewrites_digest: str,
    checkpoint: dsl.Output[dsl.Model],
    checkpoint_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Train a model by the selected recipe: write a checkpoint that open_clip loads as is."""
    from clipflow import component
    from clipflow.pretrain.launch import launch
    from clipflow.pretrain.placement import Placement

    inputs = {"pairs": pairs, "rewrites": rewrites}
    launch(params, Placement.model_validate_json(placement), inputs, checkpoint)
    component.tell(checkpoint, checkpoint_digest)
