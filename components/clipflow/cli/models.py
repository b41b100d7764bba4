"""Registered versions: where one came from, taking one back, giving one away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="A registered model.")],
    why: Annotated[str, typer.Option(help="The reason, kept with the version that is taken back.")],
) -> None:
    """Give @champion back to the version that had it before, which is @previous.

    The version that was champion becomes @previous: done twice, it is undone.
    Registering it again does not make it champion.

    clipflow rollback clipflow --why "wrong about cats"
    """
    from clipflow.registry import rollback

    typer.echo(rollback.run(model, why))


@app.command()
def lineage(
    name: Annotated[
        str, typer.Argument(metavar="MODEL@alias|MODEL/VERSION|FOLDER", help="Or a checkpoint.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="A list of findings.")] = False,
) -> None:
    """Follow a version back to its code, its run and its data. Exit status 1: a link is missing.

    What is missing is said with what to do about it. In the repository's
    folder, so that commits and artifacts/ can be looked at.

    clipflow lineage clipflow@champion
    """
    from clipflow import findings
    from clipflow.registry import lineage

    found = []
    for finding in lineage.follow(name):
        found.append(finding)
        if not as_json:
            typer.echo(findings.line(finding))
    typer.echo(findings.as_json(found) if as_json else findings.total(found))
    raise typer.Exit(int(findings.has_problem(found)))


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="MODEL@alias|MODEL/VERSION")],
    out: Annotated[Path, typer.Option(help="A new folder, or an earlier export to replace.")],
    license_name: Annotated[
        str, typer.Option("--license", help="As the Hugging Face hub calls it: apache-2.0, ...")
    ] = "unknown",
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="ORG/NAME", help="Trained on; may be repeated.")
    ] = None,
) -> None:
    """Write a version as a folder that open_clip loads, with its model card, ready for the hub.

    clipflow export clipflow@champion --out model --license cc-by-4.0
    hf upload ORG/NAME model

    Then: open_clip.create_model_and_transforms("hf-hub:ORG/NAME")
    """
    from clipflow.registry import export

    title = export.run(name, out, license_=license_name, datasets=dataset or ())
    typer.echo(f"wrote {out}: {title}, license {license_name}")
