"""The ingest stage as a Kubeflow component: a shell around `clipflow.ingest.stage.run`."""

from kfp import dsl

from clipflow.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def ingest(
    params: str,
    pairs: dsl.Output[dsl.Dataset],
    benchmarks: dsl.Output[dsl.Dataset],
) -> None:
    """Take in images with captions: write pairs to train on and benchmarks to measure by."""
    from pathlib import Path

    from clipflow import log
    from clipflow.ingest.stage import run
    from clipflow.params import parse

    log.setup("ingest")
    run(parse(params, "ingest"), pairs=Path(pairs.path), benchmarks=Path(benchmarks.path))
