"""The exit handler of the pipelines: a shell around `clipflow.finish.stage.run`."""

from kfp import dsl

from clipflow.image import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def finish(status: dsl.PipelineTaskFinalStatus) -> None:
    """Report how the run ended, and end what it left: MLflow runs and TrainJobs."""
    import os

    from clipflow import log
    from clipflow.finish.stage import run
    from clipflow.pretrain import train_job
    from clipflow.pretrain.job_manifest import Run

    log.setup("finish")
    run(state=status.state, error=status.error_message, job=status.pipeline_job_resource_name)
    if status.state != "SUCCEEDED" and "KUBERNETES_SERVICE_HOST" in os.environ:
        train_job.end_all(Run.of_environment())
