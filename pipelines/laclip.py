"""LaCLIP as a Kubeflow pipeline: the five stages of `dvc.yaml`, each in a pod of its own.

    kfp run submit pipelines/laclip.py          compile and submit
    python pipelines/laclip.py                  compile to laclip.yaml

Each parameter is one stage's section of params.yaml as JSON text. Defaults are read when this file
is compiled.
"""

from pathlib import Path

from kfp import dsl

from clipflow.evaluate.component import evaluate
from clipflow.ingest.component import ingest
from clipflow.pretrain.component import pretrain
from clipflow.register.component import register
from clipflow.rewrite.component import rewrite
from clipflow.submit import compile_command, stage_params

DEFAULTS = stage_params(Path(__file__).resolve().parents[1] / "params.yaml")


@dsl.pipeline(name="laclip", display_name="LaCLIP")  # type: ignore[untyped-decorator]
def laclip(
    ingest_params: str = DEFAULTS["ingest_params"],
    rewrite_params: str = DEFAULTS["rewrite_params"],
    pretrain_params: str = DEFAULTS["pretrain_params"],
    evaluate_params: str = DEFAULTS["evaluate_params"],
    register_params: str = DEFAULTS["register_params"],
) -> None:
    """Pre-train a CLIP-family model with language rewrites, measure it, and register it."""
    data = ingest(params=ingest_params).set_display_name("Ingest")
    pairs, benchmarks = data.outputs["pairs"], data.outputs["benchmarks"]

    texts = rewrite(params=rewrite_params, pairs=pairs).set_display_name("Rewrite")
    rewrites = texts.outputs["rewrites"]

    model = pretrain(params=pretrain_params, pairs=pairs, rewrites=rewrites)
    model.set_display_name("Pre-train")
    checkpoint = model.outputs["checkpoint"]

    scores = evaluate(params=evaluate_params, checkpoint=checkpoint, benchmarks=benchmarks)
    scores.set_display_name("Evaluate")
    report = scores.outputs["report"]

    version = register(params=register_params, checkpoint=checkpoint, report=report)
    version.set_display_name("Register")

    # KFP's cache key leaves out the content of input artifacts: after a change of ingest_params it
    # would hand out the rewrites of the old pairs. Until digests are in the key, every run works.
    for task in (data, texts, model, scores, version):
        task.set_caching_options(False)


if __name__ == "__main__":
    compile_command(laclip)
