"""The register stage as a Kubeflow component: a shell around `clipflow.register.stage.run`."""

from kfp import dsl

from clipflow.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def register(
    params: str,
    checkpoint: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    """Register the checkpoint in MLflow as @challenger, and as @champion if the gate lets it."""
    from pathlib import Path

    from clipflow import log
    from clipflow.params import parse
    from clipflow.register.stage import run

    log.setup("register")
    run(
        parse(params, "register"),
        checkpoint=Path(checkpoint.path),
        report=Path(report.path),
        registration=Path(registration.path),
    )
