"""The pretrain stage as a Kubeflow component: a shell around `clipflow.pretrain.stage.run`."""

from kfp import dsl

from clipflow.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pretrain(
    params: str,
    pairs: dsl.Input[dsl.Dataset],
    rewrites: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
) -> None:
    """Train a model by the selected recipe: write a checkpoint that open_clip loads as is."""
    from pathlib import Path

    from clipflow import log
    from clipflow.params import parse
    from clipflow.pretrain.stage import run

    log.setup("pretrain")
    run(
        parse(params, "pretrain"),
        pairs=Path(pairs.path),
        rewrites=Path(rewrites.path),
        checkpoint=Path(checkpoint.path),
    )
