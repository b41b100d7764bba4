"""The `clipflow` command: one subcommand per stage, its flags the keywords of the stage's `run`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clipflow import log, params, store
from clipflow.errors import ClipflowError

app = typer.Typer(
    help="Pre-train CLIP-family models with language rewrites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

WHERE = "FOLDER|s3://..."

ParamsFile = Annotated[Path, typer.Option("--params", help="File with every parameter.")]
Pairs = Annotated[str, typer.Option(metavar=WHERE, help="Image-caption pairs.")]
Benchmarks = Annotated[
    str, typer.Option(metavar=WHERE, help="Held-out tasks, in CLIP-benchmark's layout.")
]
Rewrites = Annotated[
    str, typer.Option(metavar=WHERE, help="Rewrites of the captions, joined by key.")
]
Checkpoint = Annotated[str, typer.Option(metavar=WHERE, help="Model that open_clip loads as is.")]
Report = Annotated[str, typer.Option(metavar=WHERE, help="Metrics, tables and report.html.")]
Registration = Annotated[
    str, typer.Option(metavar=WHERE, help="Model version, aliases and reasons.")
]
Scores = Annotated[str, typer.Option(metavar=WHERE, help="Scores of all texts, joined by key.")]

ShardRange = Annotated[
    str | None, typer.Option(metavar="A:B|I/N", help="Only these shards, or part I of N (from 0).")
]

PARAMS = Path("params.yaml")


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
    checkpoint: Checkpoint = "artifacts/checkpoint",
    benchmarks: Benchmarks = "artifacts/benchmarks",
    report: Report = "artifacts/report",
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this benchmark, as a part to merge.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Measure a checkpoint: zero-shot, retrieval, linear probe; write a report with pictures.

    On several machines, a benchmark on each, then together:
    clipflow evaluate --task colours --report parts/colours
    clipflow reports merge parts/*
    """
    inputs = {"checkpoint": checkpoint, "benchmarks": benchmarks}
    _run("evaluate", params, inputs, {"report": report}, task=task)


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


@app.command()
def summary(
    checkpoint: Checkpoint = "artifacts/checkpoint",
    report: Report = "artifacts/report",
    registration: Registration = "artifacts/registration",
) -> None:
    """Print what the latest run came to, what was registered and why, and where to look."""
    from clipflow.summary import describe

    typer.echo(describe(*map(store.at_hand, (checkpoint, report, registration))))


@app.command(name="params")
def check_params(params_file: ParamsFile = PARAMS) -> None:
    """Check a params file, and print what each key means."""
    from clipflow.reference import describe

    typer.echo(describe(params_file))


@app.command(name="plan")
def plan_run(
    params_file: ParamsFile = PARAMS,
    devices: Annotated[int, typer.Option(min=1, help="Devices in all.")] = 1,
    device_type: Annotated[
        str, typer.Option(help="h200, h100, a100 or cpu (this machine).")
    ] = "cpu",
    price: Annotated[float | None, typer.Option(help="Dollars per device and hour.")] = None,
    tokens: Annotated[
        int, typer.Option(min=3, help="Mean tokens of a text; captions have 12-20.")
    ] = 16,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a GPU's peak.")
    ] = 0.35,
) -> None:
    """Estimate parameters, memory, hours and dollars of pretrain before booking devices."""
    from clipflow import plan

    section = params.load(params_file, "pretrain")
    found = plan.plan(section, devices=devices, device_type=device_type, price=price,
                      tokens_per_text=tokens, utilisation=utilisation)  # fmt: skip
    typer.echo(plan.describe(found, section, devices, device_type))


@app.command()
def score(
    checkpoint: Annotated[
        str, typer.Option(metavar="FOLDER|NAME", help="A checkpoint, or a model of open_clip.")
    ],
    pretrained: Annotated[
        str | None, typer.Option(metavar="TAG|FILE", help="Weights of an open_clip architecture.")
    ] = None,
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
    scores: Scores = "artifacts/scores",
    batch_size: Annotated[int, typer.Option(min=1, help="Images or texts at once.")] = 256,
) -> None:
    """Score captions and rewrites by how well they fit their images: cosines of a CLIP model.

    clipflow score --checkpoint artifacts/checkpoint

    clipflow score --checkpoint ViT-B-32 --pretrained laion2b_s34b_b79k

    Needs the packages of training. Killed, it resumes where it was.
    """
    from clipflow.rewrite import score

    log.setup("score")
    with store.folders({"pairs": pairs, "rewrites": rewrites}, {"scores": scores}) as paths:
        score.run(checkpoint=checkpoint, pretrained=pretrained, batch_size=batch_size, **paths)


rewrites_app = typer.Typer(
    help="Join parts of rewrites; exchange rewrites with LaCLIP and open_clip.",
    no_args_is_help=True,
)
app.add_typer(rewrites_app, name="rewrites")


@rewrites_app.command(name="merge")
def merge_rewrites(
    parts: Annotated[
        list[str], typer.Argument(metavar=WHERE, help="What 'rewrite --shard-range' wrote.")
    ],
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
) -> None:
    """Join parts to the artifact that one run over all shards would have written.

    clipflow rewrites merge parts/0 parts/1 --pairs artifacts/pairs --rewrites artifacts/rewrites
    """
    from clipflow.rewrite import merge

    log.setup("rewrites")
    with store.folders({"pairs": pairs}, {"rewrites": rewrites}) as paths:
        merge.run([store.at_hand(part) for part in parts], **paths)


@rewrites_app.command(name="import")
def import_rewrites(
    csv: Annotated[Path, typer.Option(help="Image path and caption per row.")],
    texts: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]FILE", help="A source's rewrites, one line per row."),
    ],
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
    by: Annotated[
        Literal["path", "caption"], typer.Option(help="What joins rows to pairs.")
    ] = "path",
    image_column: Annotated[
        str | None, typer.Option(help="Where the CSV has a header; else the first column.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Where the CSV has a header; else the second column.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Import texts that share no words with their captions.")
    ] = False,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Take in rewrites that LaCLIP released, or others in its format, checked as our own are.

    clipflow rewrites import --csv cc3m_original.csv --texts cc3m_chatgpt.txt --texts cc3m_bard.txt

    A source is called what its file's name says after the last underscore.

    Rows are joined to pairs by the path below ingest.data, or by caption if the images have other names.
    """
    from clipflow.rewrite.exchange import files, importing

    log.setup("rewrites")
    found = files.Files(csv, files.sources_of(texts), image_column, caption_column)
    section = params.load(params_file, "rewrite")
    with store.folders({"pairs": pairs}, {"rewrites": rewrites}) as paths:
        importing.run(section, found, by=by, force=force, **paths)


@rewrites_app.command(name="export")
def export_rewrites(
    to: Annotated[
        Literal["laclip", "open_clip", "open_clip_txt"],
        typer.Option("--format", help="For whom."),
    ],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
) -> None:
    """Write captions and rewrites as others read them, and print the flags to train with.

    laclip: originals.csv with source_1.txt ... beside it, line by line.

    open_clip: webdataset shards with texts in JSON, for versions after 3.3 (3.3 reads captions alone).

    open_clip_txt: for open_clip up to 3.3, a set of shards for each text (with the images in each).

    clipflow rewrites export --format open_clip --out exported
    """
    from clipflow.rewrite.exchange import exporting

    log.setup("rewrites")
    with store.folders({"pairs": pairs, "rewrites": rewrites}, {}) as paths:
        typer.echo(exporting.run(out=out, to=to, **paths), nl=False)


@app.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": [],
    }
)
def submit(ctx: typer.Context) -> None:
    """Compile a pipeline file and submit a run of it: the same as `kfp run submit`."""
    from clipflow import kfp_command

    sys.argv = ["kfp", "run", "submit", *ctx.args]
    kfp_command.main()


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


@app.command()
def doctor(
    namespace: Annotated[str, typer.Option(help="Where runs are: Kubeflow's, or a profile.")] = (
        "kubeflow"
    ),
    service_account: Annotated[str, typer.Option(help="That of the tasks.")] = "clipflow-run",
    endpoint: Annotated[
        str | None, typer.Option(envvar="KFP_ENDPOINT", help="Kubeflow Pipelines.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URL", help="MLflow, by a forwarded port.")
    ] = None,
    store_endpoint: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="The store, by a forwarded port.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of findings.")] = False,
) -> None:
    """Check a cluster: what a run needs, one finding a line, each with its fix. Exit status 1: a problem.

    Names that only the cluster knows need a forwarded port:

    kubectl port-forward -n clipflow svc/mlflow 5000 & clipflow doctor --mlflow http://localhost:5000
    """
    from clipflow.doctor import examine, findings

    found = []
    for finding in examine(
        namespace,
        service_account=service_account,
        endpoint=endpoint,
        token=os.environ.get("KFP_EXISTING_TOKEN"),
        mlflow=mlflow,
        store=store_endpoint,
    ):
        found.append(finding)
        if not as_json:
            typer.echo(findings.line(finding))
    typer.echo(findings.as_json(found) if as_json else findings.total(found))
    raise typer.Exit(int(findings.has_problem(found)))


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


def main(*args: Any) -> None:
    """Run the command line: a ClipflowError is one line and exit status 2, Ctrl-C is 130."""
    try:
        app(*args)
    except ClipflowError as error:
        sys.exit(_fail(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; nothing half-written was left behind", 130))


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"clipflow: {message}\n")
    return status
