"""Runs beside each other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipflow import log, store
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import manifest
from clipflow.cli.options import WHERE
from clipflow.errors import ArtifactError, ParamsError

if TYPE_CHECKING:
    from clipflow.compare.groups import Groups

app = typer.Typer()


@app.command()
def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN RUN...", help="Two or more; the first is A.")
    ] = None,
    group_by: Annotated[
        list[str] | None, typer.Option(metavar="PARAM", help="Instead: runs of equal values.")
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_EXPERIMENT_NAME", help="MLflow's; default clipflow."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of groups; default: the means.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="GROUP", help="That gains are over; default: the first.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="PARAM=VALUE", help="Only these runs, of groups.")
    ] = None,
    benchmarks: Annotated[
        str | None, typer.Option(metavar=WHERE, help="Where pictures come from.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path(
        "artifacts/compare.html"
    ),
) -> None:
    """Compare runs: what differs, gains with 95 % intervals, curves, examples. Prints, and writes a page.

    A RUN is an id or its beginning, a name, a DVC experiment, MODEL@alias, or a report:

    clipflow compare clipflow@champion artifacts/report --benchmarks artifacts/benchmarks

    Over seeds, all finished runs of the experiment, gains paired by seed:

    clipflow compare --group-by recipe --baseline clip

    clipflow compare --group-by recipe --group-by lr --where steps=600
    """
    from clipflow.compare import page, text
    from clipflow.compare.sides import read

    log.setup("compare")
    if bool(group_by) == bool(runs):
        raise ParamsError("compare: expected either RUN RUN... or --group-by PARAM; see --help")
    if group_by:
        found = _grouped(group_by, experiment, metric or [], baseline, where or [])
        typer.echo(text.groups(found))
        html = page.groups(found, experiment or "clipflow")
    else:
        if len(runs or []) < 2:
            raise ParamsError("compare: one run given, expected two or more; see --help")
        with tempfile.TemporaryDirectory() as folder:
            sides = read(runs or [], Path(folder), experiment=experiment)
            typer.echo(text.sides(sides))
            html = page.sides(sides, benchmarks=_same(benchmarks, sides[0].benchmarks))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    typer.echo(f"\nPage  {out.absolute().as_uri()}")


def _grouped(
    keys: list[str],
    experiment: str | None,
    metrics: list[str],
    baseline: str | None,
    where: list[str],
) -> Groups:
    from clipflow import track
    from clipflow.compare import groups
    from clipflow.compare.sides import benchmarks
    from clipflow.track import reading

    pairs = [one.partition("=") for one in where]
    if wrong := [key for key, sign, _ in pairs if not sign]:
        raise ParamsError(f"--where: expected PARAM=VALUE, got '{wrong[0]}'")
    track.connect()
    return groups.group(
        reading.runs(experiment),
        keys,
        metrics=metrics,
        baseline=baseline,
        where={key: value for key, _, value in pairs},
        benchmarks=benchmarks,
    )


def _same(benchmarks: str | None, digest: str | None) -> Path | None:
    """The benchmarks' folder, if they are those that were measured on. Raises ArtifactError if not."""
    if benchmarks is None:
        return None
    folder = store.at_hand(benchmarks)
    benchmarks_artifact.names(folder)
    if (found := manifest.digest(folder)) != digest:
        raise ArtifactError(
            f"--benchmarks: {benchmarks} is {found}, but the first run was measured on"
            f" {digest or 'what is not known'}; pass those, or leave it out for a page without pictures"
        )
    return folder
