"""The register stage as a Kubeflow component: a shell around `clipflow.register.stage.run`."""

from kfp import dsl

from clipflow.image import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def register(
    params: str,
    checkpoint: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    """Register the checkpoint in MLflow as @challenger, and as @champion if the gate lets it."""
    from pathlib import Path

    from clipflow import component
    from clipflow.artifacts import registration as registrations
    from clipflow.params import parse
    from clipflow.register.stage import run

    inputs, out = {"checkpoint": checkpoint, "report": report}, Path(registration.path)
    with component.folders("register", inputs, {}, made_with=params) as paths:
        run(parse(params, "register"), **paths, registration=out)
    component.tell(registration)
    decided = registrations.read(out)
    registration.metadata |= {name: decided[name] for name in ("model", "version", "accepted")}
