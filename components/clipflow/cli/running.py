"""Around a run: parameters and plans before it, submitting it, what it came to, the cluster."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from clipflow import params, store
from clipflow.cli.options import PARAMS, Checkpoint, ParamsFile, Registration, Report

app = typer.Typer()


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


@app.command()
def summary(
    checkpoint: Checkpoint = "artifacts/checkpoint",
    report: Report = "artifacts/report",
    registration: Registration = "artifacts/registration",
) -> None:
    """Print what the latest run came to, what was registered and why, and where to look."""
    from clipflow.summary import describe

    typer.echo(describe(*map(store.at_hand, (checkpoint, report, registration))))


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
    from clipflow import findings
    from clipflow.doctor import examine

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
