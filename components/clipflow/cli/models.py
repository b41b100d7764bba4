"""Registered versions: where one came from, taking one back, giving one away."""

from __future__ import annotations

from typing import Annotated

import typer

from clipflow import log

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="MODEL@alias|MODEL/VERSION", help="A version.")]


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

    log.setup("rollback")
    typer.echo(rollback.run(model, why))
