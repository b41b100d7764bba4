"""The evaluate stage as a Kubeflow component: a shell around `clipflow.evaluate.stage.run`.

`metrics` and `page` are views of `report` for the Kubeflow UI, which shows scalars and HTML only as
artifacts of their own. Nothing downstream reads them.
"""

from kfp import dsl

from clipflow.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def evaluate(
    params: str,
    checkpoint: dsl.Input[dsl.Model],
    benchmarks: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Measure a checkpoint: zero-shot, retrieval, linear probe; write a report with pictures."""
    from pathlib import Path
    from shutil import copyfile

    from clipflow import log
    from clipflow.artifacts import report as reports
    from clipflow.evaluate.stage import run
    from clipflow.params import parse

    log.setup("evaluate")
    out = Path(report.path)
    paths = {"checkpoint": Path(checkpoint.path), "benchmarks": Path(benchmarks.path)}
    run(parse(params, "evaluate"), **paths, report=out)
    for name, value in reports.metrics(out).items():
        metrics.log_metric(name, value)
    copyfile(out / reports.PAGE, page.path)
