"""One command per stage, its flags the keywords of the stage's `run`, and what joins their parts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from clipflow import log, params, store
from clipflow.cli.options import (
    PARAMS,
    WHERE,
    Benchmarks,
    Checkpoint,
    Pairs,
    ParamsFile,
    Registration,
    Report,
    Rewrites,
    ShardRange,
)

app = typer.Typer()


@app.command()
def ingest(
    pairs: Pairs = "artifacts/pairs",
    benchmarks: Benchmarks = "artifacts/benchmarks",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Fetch again what failed and may not now.")
    ] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Take in images with captions: write pairs to train on and benchmarks to measure by.

    Where from is `ingest.source` in the params file, at `ingest.data`:

    scenes      an embedded world, drawn
    folder      images with a captions file, or class folders
    webdataset  tar shards, as img2dataset and open_clip write them
    urls        tables of URLs and captions, as CC3M, CC12M and LAION

    Killed or interrupted, the same command goes on. report.html beside the
    pairs shows what was taken, and what not and why.
    """
    _run(
        "ingest", params, {}, {"pairs": pairs, "benchmarks": benchmarks}, retry_failed=retry_failed
    )


@app.command()
def rewrite(
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
    shard_range: ShardRange = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Rewrite every caption several times: write rewrites, joined to the pairs by key.

    What writes them is `rewrite.generator` in the params file. Its settings
    are below `generators:`; `clipflow params` says what each key means.

    grammar           rules and a thesaurus, no model
    eda               random edits, no model
    hf                a language model in this process, by folder or name
    vllm              the same in vLLM's engine
    server            a model behind OPENAI_BASE_URL (key: OPENAI_API_KEY)
    backtranslate     translation models, there and back
    captioner         from the image, by a model in this process
    server_captioner  from the image, by a chat model behind OPENAI_BASE_URL

    Killed, interrupted or over its budget, the same command goes on. Shards
    that are done stay; answers that came are kept in CLIPFLOW_CACHE (default:
    artifacts/cache) and not asked for again. report.html beside the rewrites
    shows how good they are.

    On several machines, each with an output of its own, then together:
    clipflow rewrite --shard-range 0/4 --rewrites parts/0
    clipflow rewrites merge parts/0 parts/1 parts/2 parts/3
    """
    _run("rewrite", params, {"pairs": pairs}, {"rewrites": rewrites}, shard_range=shard_range)


@app.command()
def pretrain(
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
    checkpoint: Checkpoint = "artifacts/checkpoint",
    params: ParamsFile = PARAMS,
) -> None:
    """Train a model by the selected recipe: write a checkpoint. Killed, it resumes where it was."""
    inputs = {"pairs": pairs, "rewrites": rewrites}
    _run("pretrain", params, inputs, {"checkpoint": checkpoint})


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Option(metavar="FOLDER|s3://...|NAME", help="A checkpoint, or any CLIP model.")
    ] = "artifacts/checkpoint",
    benchmarks: Benchmarks = "artifacts/benchmarks",
    report: Report = "artifacts/report",
    pretrained: Annotated[
        str | None, typer.Option(metavar="TAG|FILE", help="Weights of an open_clip architecture.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this benchmark, as a part to merge.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Measure a checkpoint; write a report with pictures, every fraction with its 95 % interval.

    Zero-shot, retrieval, linear probe, few-shot and calibration on the
    benchmarks and on `evaluate.suites` of the params file (ImageNet and others
    in CLIP-benchmark's layout, class folders, right and wrong captions), and
    what else `evaluate:` asks for; `clipflow params` says what each key means.

    Other models, by folder or name:

    clipflow evaluate --checkpoint ViT-B-32 --pretrained laion2b_s34b_b79k
    clipflow evaluate --checkpoint hf-hub:ORG/NAME --report artifacts/other
    clipflow evaluate --checkpoint transformers:ORG/NAME

    Embeddings are kept in CLIPFLOW_SCRATCH: killed, the same command goes on.
    On several devices: torchrun --nproc-per-node 8 -m clipflow evaluate

    On several machines, a benchmark on each, then together:
    clipflow evaluate --task colours --report parts/colours
    clipflow reports merge parts/*
    """
    inputs = {"checkpoint": checkpoint, "benchmarks": benchmarks}
    _run("evaluate", params, inputs, {"report": report}, task=task, pretrained=pretrained)


@app.command()
def register(
    checkpoint: Checkpoint = "artifacts/checkpoint",
    report: Report = "artifacts/report",
    registration: Registration = "artifacts/registration",
    params: ParamsFile = PARAMS,
) -> None:
    """Register the checkpoint in MLflow as @challenger, and as @champion if the gate lets it."""
    inputs = {"checkpoint": checkpoint, "report": report}
    _run("register", params, inputs, {"registration": registration})


reports_app = typer.Typer(help="Join parts of reports.", no_args_is_help=True)
app.add_typer(reports_app, name="reports")


@reports_app.command(name="merge")
def merge_reports(
    parts: Annotated[
        list[str], typer.Argument(metavar=WHERE, help="What 'evaluate --task' wrote.")
    ],
    checkpoint: Checkpoint = "artifacts/checkpoint",
    benchmarks: Benchmarks = "artifacts/benchmarks",
    report: Report = "artifacts/report",
    params_file: ParamsFile = PARAMS,
) -> None:
    """Join parts to the report that one run over all benchmarks would have written.

    clipflow reports merge parts/* --checkpoint artifacts/checkpoint --report artifacts/report
    """
    from clipflow.evaluate import merge

    log.setup("evaluate")
    section = params.load(params_file, "evaluate")
    inputs = {"checkpoint": checkpoint, "benchmarks": benchmarks}
    with store.folders(inputs, {"report": report}) as paths:
        merge.run(section, [store.at_hand(part) for part in parts], **paths)


def _run(
    stage: str,
    params_file: Path,
    inputs: dict[str, str],
    outputs: dict[str, str],
    **choices: Any,
) -> None:
    log.setup(stage)
    module = importlib.import_module(f"clipflow.{stage}.stage")
    section = params.load(params_file, stage)
    wanted = module.wanted(section) if hasattr(module, "wanted") else store.everything
    with store.folders(
        inputs, outputs, made_with=section.model_dump_json(), wanted=wanted
    ) as paths:
        module.run(section, **paths, **choices)
