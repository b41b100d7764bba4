"""The rewrite stage as a Kubeflow component: a shell around `clipflow.rewrite.stage.run`."""

from kfp import dsl

from clipflow.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def rewrite(
    params: str,
    pairs: dsl.Input[dsl.Dataset],
    rewrites: dsl.Output[dsl.Dataset],
) -> None:
    """Rewrite every caption several times: write rewrites, joined to the pairs by key."""
    from pathlib import Path

    from clipflow import log
    from clipflow.params import parse
    from clipflow.rewrite.stage import run

    log.setup("rewrite")
    run(parse(params, "rewrite"), pairs=Path(pairs.path), rewrites=Path(rewrites.path))
