"""The ingest stage as Kubeflow components: shells around `clipflow.ingest.stage`."""

from kfp import dsl

from clipflow.image import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def fingerprint(params: str) -> str:
    """Tell states of the source's data apart: ingest is repeated only when they changed."""
    from clipflow.ingest.stage import fingerprint
    from clipflow.params import parse

    return fingerprint(parse(params, "ingest"))


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def ingest(
    params: str,
    data_fingerprint: str,
    pairs: dsl.Output[dsl.Dataset],
    benchmarks: dsl.Output[dsl.Dataset],
    pairs_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
    benchmarks_digest: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    """Take in images with captions: write pairs to train on and benchmarks to measure by."""
    from clipflow import component
    from clipflow.ingest.stage import run
    from clipflow.params import parse

    outputs = {"pairs": pairs, "benchmarks": benchmarks}
    made_with = params + data_fingerprint
    with component.folders("ingest", {}, outputs, made_with=made_with) as paths:
        run(parse(params, "ingest"), pairs=paths["pairs"], benchmarks=paths["benchmarks"])
    component.tell(pairs, pairs_digest)
    component.tell(benchmarks, benchmarks_digest)
