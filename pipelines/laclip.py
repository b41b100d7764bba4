"""LaCLIP as a Kubeflow pipeline: the five stages of `dvc.yaml` in pods.

    kfp run submit pipelines/laclip.py          compile and submit
    python pipelines/laclip.py                  compile to laclip.yaml

Each `<stage>_params` is that stage's section of params.yaml as JSON text; the rest says where and on how
much it runs. Defaults are read when this file is compiled. Rewriting is dealt out over shards, evaluation
over benchmarks. A task is not run again if its params, its image and the digests of its inputs are those
of an earlier run.
"""

from pathlib import Path

from kfp import dsl

from clipflow import pods
from clipflow.evaluate.component import fan_out
from clipflow.finish.component import finish
from clipflow.image import CPU_IMAGE, GPU_IMAGE
from clipflow.ingest.component import fingerprint, ingest
from clipflow.pretrain.component import place, pretrain
from clipflow.register.component import register
from clipflow.rewrite.component import merge_rewrites, rewrite, shard_ranges
from clipflow.submit import compile_command, stage_params

DEFAULTS = stage_params(Path(__file__).resolve().parents[1] / "params.yaml")


@dsl.pipeline(name="laclip", display_name="LaCLIP")  # type: ignore[untyped-decorator]
def laclip(
    ingest_params: str = DEFAULTS["ingest_params"],
    rewrite_params: str = DEFAULTS["rewrite_params"],
    pretrain_params: str = DEFAULTS["pretrain_params"],
    evaluate_params: str = DEFAULTS["evaluate_params"],
    register_params: str = DEFAULTS["register_params"],
    rewrite_parts: int = 4,
    num_nodes: int = 1,
    accelerator: str = "nvidia.com/gpu",
    accelerators_per_node: int = 1,
    cpu_per_node: str = "4",
    memory_per_node: str = "32Gi",
    node_selector: dict = pods.GPU_POOL,  # type: ignore[type-arg]
    tolerations: list = pods.GPU_TAINTS,  # type: ignore[type-arg]
    rewrite_image: str = CPU_IMAGE,
    cpu_image: str = CPU_IMAGE,
    gpu_image: str = GPU_IMAGE,
) -> None:
    """Pre-train a CLIP-family model with language rewrites, measure it, and register it.

    Args:
        ingest_params: Section `ingest` of a params file as JSON text.
        rewrite_params: Section `rewrite`, with the selected generator.
        pretrain_params: Section `pretrain`, with the selected recipe.
        evaluate_params: Section `evaluate`.
        register_params: Section `register`.
        rewrite_parts: Pods among which rewriting is dealt out, by shards.
        num_nodes: Nodes that train together; with more than one, as a TrainJob.
        accelerator: Resource name of the accelerators.
        accelerators_per_node: Accelerators of each node; 0 trains and evaluates on CPUs.
        cpu_per_node: CPUs that each training pod is given at least.
        memory_per_node: Memory of each training pod.
        node_selector: Labels of the nodes with accelerators; of spot nodes to train on those.
        tolerations: Taints of these nodes that pods put up with.
        rewrite_image: Image of rewrite; the GPU image for generators that run a model themselves.
        cpu_image: Image of the tasks without torch.
        gpu_image: Image of pretrain and evaluate.
    """
    end = pods.furnish(finish(), cpu_image, "Finish")
    end.set_caching_options(False)
    with dsl.ExitHandler(end, name="LaCLIP"):
        state = pods.furnish(fingerprint(params=ingest_params), cpu_image, "Look at the data")
        state.set_caching_options(False)
        data = ingest(params=ingest_params, data_fingerprint=state.output)
        pods.furnish(data, cpu_image, "Ingest", memory="4Gi")
        pairs = {"pairs": data.outputs["pairs"], "pairs_digest": data.outputs["pairs_digest"]}

        ranges = pods.furnish(
            shard_ranges(num_parts=rewrite_parts, **pairs), cpu_image, "Deal out shards"
        )
        with dsl.ParallelFor(
            items=ranges.output, parallelism=pods.AT_ONCE, name="Rewrite"
        ) as shards:
            part = rewrite(params=rewrite_params, shard_range=shards, **pairs)
            pods.furnish(part, rewrite_image, "Rewrite", memory="4Gi", secrets=pods.LLM | pods.HUB)
        texts = merge_rewrites(
            parts=dsl.Collected(part.outputs["rewrites"]),
            parts_digests=dsl.Collected(part.outputs["rewrites_digest"]),
            **pairs,
        )
        pods.furnish(texts, cpu_image, "Merge rewrites", memory="4Gi")

        where = place(
            num_nodes=num_nodes,
            accelerator=accelerator,
            accelerators_per_node=accelerators_per_node,
            cpu=cpu_per_node,
            memory=memory_per_node,
            node_selector=node_selector,
            tolerations=tolerations,
            image=gpu_image,
        )
        pods.furnish(where, cpu_image, "Place")
        model = pretrain(
            params=pretrain_params,
            placement=where.outputs["placement"],
            rewrites=texts.outputs["rewrites"],
            rewrites_digest=texts.outputs["rewrites_digest"],
            **pairs,
        )
        pods.furnish(
            model,
            gpu_image,
            "Pre-train",
            cpu=where.outputs["pod_cpu"],
            memory=where.outputs["pod_memory"],
            secrets=pods.HUB,
        )
        pods.on_accelerators(
            model,
            kind=accelerator,
            count=where.outputs["pod_accelerators"],
            node_selector=where.outputs["pod_node_selector"],
            tolerations=tolerations,
        )

        measured = {
            "checkpoint": model.outputs["checkpoint"],
            "checkpoint_digest": model.outputs["checkpoint_digest"],
            "benchmarks": data.outputs["benchmarks"],
            "benchmarks_digest": data.outputs["benchmarks_digest"],
        }
        report = fan_out(
            evaluate_params,
            measured,
            cpu_image=cpu_image,
            gpu_image=gpu_image,
            kind=accelerator,
            count=where.outputs["task_accelerators"],
            node_selector=node_selector,
            tolerations=tolerations,
        )
        version = register(
            params=register_params,
            checkpoint=measured["checkpoint"],
            report=report.outputs["report"],
        )
        pods.furnish(version, cpu_image, "Register", memory="4Gi")
        version.set_caching_options(False)  # it settles aliases, which others may have moved since


if __name__ == "__main__":
    compile_command(laclip)
