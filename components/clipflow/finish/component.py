"""The exit handler of the pipelines: a shell around `clipflow.finish.stage.run`."""

from kfp import dsl

from clipflow.image import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def finish(status: dsl.PipelineTaskFinalStatus) -> None:
    """Report how the run ended: in the log, on its MLflow runs, and to a webhook if there is one."""
    from clipflow import log
    from clipflow.finish.stage import run

    log.setup("finish")
    run(state=status.state, error=status.error_message, job=status.pipeline_job_resource_name)
