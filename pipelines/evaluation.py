"""Measure a checkpoint that there is already, and register it.

    kfp run submit pipelines/evaluation.py checkpoint=s3://bucket/checkpoint benchmarks=s3://bucket/benchmarks

Both are artifacts of clipflow in the object store: what a run of `laclip.py` published, or what
`clipflow pretrain --checkpoint s3://...` and `clipflow ingest --benchmarks s3://...` wrote.
"""

from pathlib import Path

from kfp import dsl

from clipflow import pods
from clipflow.evaluate.component import fan_out, refer
from clipflow.finish.component import finish
from clipflow.image import CPU_IMAGE, GPU_IMAGE
from clipflow.register.component import register
from clipflow.submit import compile_command, stage_params

DEFAULTS = stage_params(Path(__file__).resolve().parents[1] / "params.yaml")


@dsl.pipeline(name="evaluation", display_name="Evaluation")  # type: ignore[untyped-decorator]
def evaluation(
    checkpoint: str,
    benchmarks: str,
    evaluate_params: str = DEFAULTS["evaluate_params"],
    register_params: str = DEFAULTS["register_params"],
    accelerator: str = "nvidia.com/gpu",
    accelerators: int = 1,
    node_selector: dict = pods.GPU_POOL,  # type: ignore[type-arg]
    tolerations: list = pods.GPU_TAINTS,  # type: ignore[type-arg]
    cpu_image: str = CPU_IMAGE,
    gpu_image: str = GPU_IMAGE,
) -> None:
    """Measure a checkpoint that there is already, and register it.

    Args:
        checkpoint: Its s3:// URL.
        benchmarks: The s3:// URL of what it is measured on.
        evaluate_params: Section `evaluate` of a params file as JSON text.
        register_params: Section `register`.
        accelerator: Resource name of the accelerators.
        accelerators: 1 to measure on an accelerator, 0 on CPUs.
        node_selector: Labels of the nodes with accelerators.
        tolerations: Taints of these nodes that pods put up with.
        cpu_image: Image of the tasks without torch.
        gpu_image: Image of evaluate.
    """
    end = pods.furnish(finish(), cpu_image, "Finish")
    end.set_caching_options(False)
    with dsl.ExitHandler(end, name="Evaluation"):
        given = refer(checkpoint_url=checkpoint, benchmarks_url=benchmarks)
        pods.furnish(given, cpu_image, "Look up")
        given.set_caching_options(False)  # what a URL holds may change
        measured = {
            name: given.outputs[name]
            for name in ("checkpoint", "checkpoint_digest", "benchmarks", "benchmarks_digest")
        }
        report = fan_out(
            evaluate_params,
            measured,
            cpu_image=cpu_image,
            gpu_image=gpu_image,
            kind=accelerator,
            count=accelerators,
            node_selector=node_selector,
            tolerations=tolerations,
        )
        version = register(
            params=register_params,
            checkpoint=measured["checkpoint"],
            report=report.outputs["report"],
        )
        pods.furnish(version, cpu_image, "Register", memory="4Gi")
        version.set_caching_options(False)


if __name__ == "__main__":
    compile_command(evaluation)
