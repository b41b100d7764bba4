"""The evaluate stage as Kubeflow components: each benchmark in a pod of its own, then one report.

`metrics`, `page` and `confusion` are views of the report for the Kubeflow UI, which shows scalars, HTML and
matrices only as artifacts of their own. Nothing downstream reads them.
"""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from clipflow import pods
from clipflow.image import CPU_IMAGE, GPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def refer(
    checkpoint_url: str,
    benchmarks_url: str,
    checkpoint: dsl.Output[dsl.Model],
    benchmarks: dsl.Output[dsl.Dataset],
    checkpoint_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
    benchmarks_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Stand for a checkpoint and benchmarks that are in the object store already."""
    from pathlib import Path

    from clipflow import component, store
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.artifacts import checkpoint as checkpoint_artifact
    from clipflow.artifacts import manifest

    for artifact, url, schema, digest in (
        (checkpoint, checkpoint_url, checkpoint_artifact.SCHEMA, checkpoint_digest),
        (benchmarks, benchmarks_url, benchmarks_artifact.SCHEMA, benchmarks_digest),
    ):
        store.refer(Path(artifact.path), url)
        manifest.read(Path(artifact.path), schema)
        component.tell(artifact, digest)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def benchmark_tasks(
    params: str, benchmarks: dsl.Input[dsl.Dataset], benchmarks_digest: str
) -> list[str]:
    """Name the benchmarks that a checkpoint is measured on."""
    from pathlib import Path

    from clipflow.evaluate import suites
    from clipflow.params import parse

    return suites.names(parse(params, "evaluate"), Path(benchmarks.path))


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def evaluate(
    params: str,
    task: str,
    checkpoint: dsl.Input[dsl.Model],
    checkpoint_digest: str,
    benchmarks: dsl.Input[dsl.Dataset],
    benchmarks_digest: str,
    report: dsl.Output[dsl.Artifact],
    report_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Measure a checkpoint on one benchmark: zero-shot and linear probe, or retrieval."""
    from pathlib import Path

    from clipflow import component
    from clipflow.evaluate.stage import run
    from clipflow.params import parse

    inputs = {"checkpoint": checkpoint, "benchmarks": benchmarks}
    with component.folders("evaluate", inputs, {}, made_with=params + task) as paths:
        run(
            parse(params, "evaluate"),
            checkpoint=paths["checkpoint"],
            benchmarks=paths["benchmarks"],
            report=Path(report.path),
            task=task,
        )
    component.tell(report, report_digest)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def merge_reports(
    params: str,
    parts: dsl.Input[list[dsl.Artifact]],
    parts_digests: list[str],
    checkpoint: dsl.Input[dsl.Model],
    checkpoint_digest: str,
    benchmarks: dsl.Input[dsl.Dataset],
    benchmarks_digest: str,
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Put the parts together: one report with pictures, logged to the run that trained the checkpoint."""
    from pathlib import Path
    from shutil import copyfile

    from clipflow import component
    from clipflow.artifacts import report as reports
    from clipflow.evaluate import merge
    from clipflow.params import parse

    out = Path(report.path)
    inputs = {"checkpoint": checkpoint, "benchmarks": benchmarks}
    with component.folders("evaluate", inputs, {}, made_with=params) as paths:
        folders = [Path(part.path) for part in parts]
        merge.run(parse(params, "evaluate"), folders, **paths, report=out)
    for name, value in reports.metrics(out).items():
        metrics.log_metric(name, value)
    if matrix := reports.confusion(out):
        confusion.log_confusion_matrix(*matrix)
    copyfile(out / reports.PAGE, page.path)
    component.tell(report, report_digest)


def fan_out(
    params: Any, measured: Mapping[str, Any], *, cpu_image: Any, gpu_image: Any, **pool: Any
) -> Any:
    """The task whose report is of all benchmarks, each of them measured in a pod of its own.

    Called while a pipeline is put together. `measured`: checkpoint, benchmarks and their digests, from
    other tasks; `pool`: as of `pods.on_accelerators`.
    """
    of_benchmarks = ("benchmarks", "benchmarks_digest")
    names = benchmark_tasks(params=params, **{name: measured[name] for name in of_benchmarks})
    pods.furnish(names, cpu_image, "List benchmarks")
    with dsl.ParallelFor(items=names.output, parallelism=pods.AT_ONCE, name="Evaluate") as name:
        scores = evaluate(params=params, task=name, **measured)
        pods.furnish(scores, gpu_image, "Evaluate", memory="16Gi", secrets=pods.HUB)
        pods.on_accelerators(scores, **pool)
    report = merge_reports(
        params=params,
        parts=dsl.Collected(scores.outputs["report"]),
        parts_digests=dsl.Collected(scores.outputs["report_digest"]),
        **measured,
    )
    return pods.furnish(report, cpu_image, "Report", memory="8Gi")
