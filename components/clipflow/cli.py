"""The `clipflow` command: one subcommand per stage, its flags the keywords of the stage's `run`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from clipflow import log, params
from clipflow.errors import ClipflowError

app = typer.Typer(
    help="Pre-train CLIP-family models with language rewrites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="File with every parameter.")]
Pairs = Annotated[Path, typer.Option(help="Image-caption pairs.")]
Benchmarks = Annotated[Path, typer.Option(help="Held-out tasks, in CLIP-benchmark's layout.")]
Rewrites = Annotated[Path, typer.Option(help="Rewrites of the captions, joined by key.")]
Checkpoint = Annotated[Path, typer.Option(help="Model that open_clip loads as is.")]
Report = Annotated[Path, typer.Option(help="Metrics, tables and report.html.")]
Registration = Annotated[Path, typer.Option(help="Model version, aliases and reasons.")]

ShardRange = Annotated[
    str | None, typer.Option(metavar="A:B|I/N", help="Only these shards, or part I of N (from 0).")
]

PARAMS = Path("params.yaml")
ROOT = Path("artifacts")


@app.command()
def ingest(
    pairs: Pairs = ROOT / "pairs",
    benchmarks: Benchmarks = ROOT / "benchmarks",
    params: ParamsFile = PARAMS,
) -> None:
    """Take in images with captions: write pairs to train on and benchmarks to measure by."""
    _run("ingest", params, pairs=pairs, benchmarks=benchmarks)


@app.command()
def rewrite(
    pairs: Pairs = ROOT / "pairs",
    rewrites: Rewrites = ROOT / "rewrites",
    shard_range: ShardRange = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Rewrite every caption several times: write rewrites, joined to the pairs by key."""
    _run("rewrite", params, pairs=pairs, rewrites=rewrites, shard_range=shard_range)


@app.command()
def pretrain(
    pairs: Pairs = ROOT / "pairs",
    rewrites: Rewrites = ROOT / "rewrites",
    checkpoint: Checkpoint = ROOT / "checkpoint",
    params: ParamsFile = PARAMS,
) -> None:
    """Train a model by the selected recipe: write a checkpoint. Killed, it resumes where it was."""
    _run("pretrain", params, pairs=pairs, rewrites=rewrites, checkpoint=checkpoint)


@app.command()
def evaluate(
    checkpoint: Checkpoint = ROOT / "checkpoint",
    benchmarks: Benchmarks = ROOT / "benchmarks",
    report: Report = ROOT / "report",
    params: ParamsFile = PARAMS,
) -> None:
    """Measure a checkpoint: zero-shot, retrieval, linear probe; write a report with pictures."""
    _run("evaluate", params, checkpoint=checkpoint, benchmarks=benchmarks, report=report)


@app.command()
def register(
    checkpoint: Checkpoint = ROOT / "checkpoint",
    report: Report = ROOT / "report",
    registration: Registration = ROOT / "registration",
    params: ParamsFile = PARAMS,
) -> None:
    """Register the checkpoint in MLflow as @challenger, and as @champion if the gate lets it."""
    _run("register", params, checkpoint=checkpoint, report=report, registration=registration)


@app.command()
def summary(
    checkpoint: Checkpoint = ROOT / "checkpoint",
    report: Report = ROOT / "report",
    registration: Registration = ROOT / "registration",
) -> None:
    """Print what the latest run came to, what was registered and why, and where to look."""
    from clipflow.summary import describe

    typer.echo(describe(checkpoint, report, registration))


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


def _run(stage: str, params_file: Path, **artifacts: Any) -> None:
    log.setup(stage)
    run: Callable[..., None] = importlib.import_module(f"clipflow.{stage}.stage").run
    run(params.load(params_file, stage), **artifacts)


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
