"""The `kfp` command, which can also submit a pipeline file: `kfp run submit pipelines/laclip.py`.

kfp's own command takes compiled packages only and has no plugins, so this package installs a script
of the same name. It runs kfp's own Click group; the one thing changed is where the group looks up a
command: `run submit` or `run create` with a `.py` file goes to `submit` below, before kfp asks for
an API server. Everything else is kfp's.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click
import kfp
import kfp_server_api  # type: ignore[import-untyped]
import urllib3
from kfp.cli.__main__ import main as kfp_main
from kfp.cli.cli import cli
from kfp.cli.run import create
from kfp.compiler import Compiler

from clipflow import cluster
from clipflow.errors import SubmitError
from clipflow.follow import follow
from clipflow.submit import (
    arguments,
    check,
    check_pinned,
    load,
    needs,
    stage_params,
    stock_commands,
)

REPLACED = {"args", "package_file", "pipeline_id", "pipeline_name", "version"}
"""Parameters of kfp's `run create` whose place the pipeline file takes."""
PARAMS = click.Option(
    ["--params"],
    type=click.Path(path_type=Path),
    help="Params file whose sections become the pipeline's <stage>_params.",
)
OURS = [
    PARAMS,
    click.Option(
        ["--allow-tags"], is_flag=True, help="Take images named by a tag, which may change."
    ),
    click.Option(["--dry-run"], is_flag=True, help="Check everything, send nothing."),
    click.Option(
        ["--service-account"], help="Service account of the tasks.  [default: the server's]"
    ),
    click.Option(
        ["--cache/--no-cache"], default=None, help="Reuse equal tasks' outputs, or run every task."
    ),
]


def main() -> None:
    """Run kfp's command line, taught to submit pipeline files."""
    look_up = cli.resolve_command

    def resolve_command(ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = look_up(ctx, args)
        if name == "run" and _is_ours(rest):
            # Any name but `run` keeps kfp from connecting before the file is compiled.
            return f"run {rest[0]}", submit, rest[1:]
        return name, command, rest

    cli.resolve_command = resolve_command
    kfp_main()


def _is_ours(args: list[str]) -> bool:
    if args[:1] == ["submit"] and "--help" in args:
        return True
    if args[:1] not in (["submit"], ["create"]):
        return False
    lenient = {"ignore_unknown_options": True, "resilient_parsing": True}
    either = click.Command(args[0], params=[*create.params, *OURS])
    words = either.make_context(args[0], args[1:], **lenient).params["args"]
    return any(_is_file(word) for word in words or ())


def _is_file(word: str) -> bool:
    return word.endswith(".py") and "=" not in word


def _submit(
    ctx: click.Context,
    args: Sequence[str],
    params: Path | None,
    experiment_name: str | None,
    watch: bool,
    allow_tags: bool,
    dry_run: bool,
    service_account: str | None,
    cache: bool | None,
    **options: Any,
) -> None:
    """Compile a pipeline file and submit a run of it.

    KEY=VALUE sets a parameter of the pipeline. Without a PIPELINE.py this is kfp's own
    `kfp run create`, for compiled packages and uploaded pipelines.
    """
    files = [Path(word) for word in args if _is_file(word)]
    words = [word for word in args if not _is_file(word)]
    if len(files) != 1:
        raise click.UsageError(f"expected one PIPELINE.py, got {len(files)}", ctx)
    for word in words:
        if "=" not in word:
            raise click.UsageError(f"expected KEY=VALUE, got '{word}'", ctx)

    pipeline = load(files[0])
    experiment_name = experiment_name or pipeline.name
    given = stage_params(params) if params else {}
    given |= dict(word.split("=", maxsplit=1) for word in words)
    check(pipeline, given)
    if not allow_tags:
        check_pinned(pipeline, given)
    args = arguments(pipeline, given)

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{pipeline.name}.yaml"
        Compiler().compile(pipeline, str(package))
        connection = ctx.find_root().params
        with _one_line_errors(connection["endpoint"]):
            client = _connect(connection)
            client.get_kfp_healthz()
            if unseen := cluster.check(needs(pipeline), connection["namespace"]):
                click.echo(f"secrets, config maps and volumes not checked: {unseen}", err=True)
            if dry_run:
                click.echo(f"{files[0]}: can be submitted; nothing was sent (--dry-run)")
                return
            client.service_account, client.enable_caching = service_account, cache
            ctx.obj.update(
                client=client,
                namespace=connection["namespace"],
                output=connection["output"],
            )
            ctx.invoke(
                create,
                args=args,
                package_file=str(package),
                experiment_name=experiment_name,
                watch=False,
                **options,
            )
            if watch and not follow(client, client.run_id):
                ctx.exit(1)
    click.echo("The same with kfp alone:", err=True)
    click.echo(stock_commands(files[0], Path(package.name), experiment_name, args), err=True)


class _Client(kfp.Client):  # type: ignore[misc]
    """kfp's client, which asks once whether the server is there, not five times in 25 seconds."""

    service_account: str | None = None
    enable_caching: bool | None = None
    run_id = ""
    """The run that was submitted last."""

    def run_pipeline(self, *args: Any, **options: Any) -> Any:
        options |= {"service_account": self.service_account, "enable_caching": self.enable_caching}
        run = super().run_pipeline(*args, **options)
        self.run_id = run.run_id
        return run

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        return self._healthz_api.healthz_service_get_healthz()


def _connect(connection: dict[str, Any]) -> _Client:
    # kfp warns of servers older than v2.0.0-beta.2 and prints that it found no Kubernetes
    # configuration; the one matters no more and the other is said by the error that follows.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        return _Client(
            host=connection["endpoint"],
            client_id=connection["iap_client_id"],
            namespace=connection["namespace"],
            other_client_id=connection["other_client_id"],
            other_client_secret=connection["other_client_secret"],
            existing_token=connection["existing_token"],
        )


ADVICE = {
    401: "pass --existing-token or set KFP_EXISTING_TOKEN",
    409: "it is there already or was changed meanwhile: submit again, or choose another name",
    429: "the server is busy: submit again in a minute",
    403: "pass --existing-token or set KFP_EXISTING_TOKEN, and check --namespace",
    404: "check --endpoint or KFP_ENDPOINT: is this a Kubeflow Pipelines API?",
}


@contextmanager
def _one_line_errors(endpoint: str | None) -> Iterator[None]:
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each attempt is a warning
    where = endpoint or os.environ.get("KF_PIPELINES_ENDPOINT") or "current Kubernetes context"
    try:
        yield
    except kfp_server_api.ApiException as error:
        said = " ".join(str(error.body or "").split())[:200]
        advice = ADVICE.get(error.status, "see the API server's log, or set another KFP_ENDPOINT")
        raise SubmitError(
            f"{where}: Kubeflow Pipelines answered {error.status} {error.reason} {said}; {advice}"
        ) from error
    except kfp_server_api.OpenApiException as error:
        raise SubmitError(
            f"{where}: answered, but not as Kubeflow Pipelines does (a login page?); "
            "check --endpoint or KFP_ENDPOINT, and --existing-token or KFP_EXISTING_TOKEN"
        ) from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise SubmitError(
            f"{where}: can't reach Kubeflow Pipelines ({reason}); set --endpoint or KFP_ENDPOINT"
        ) from error


def _parameters() -> Iterator[click.Parameter]:
    yield click.Argument(["args"], nargs=-1, required=True, metavar="PIPELINE.py [KEY=VALUE]...")
    for parameter in create.params:
        if parameter.name == "experiment_name":
            experiment = copy.copy(parameter)
            experiment.required = False
            experiment.help = "Experiment of the run, made if new.  [default: the pipeline's name]"
            yield experiment
        elif parameter.name not in REPLACED:
            yield parameter
    yield from OURS


submit = click.Command(
    "submit",
    callback=click.pass_context(_submit),
    params=list(_parameters()),
    help=_submit.__doc__,
    context_settings={"auto_envvar_prefix": "KFP_RUN_CREATE"},
)
