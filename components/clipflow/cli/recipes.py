"""The recipes there are."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command(name="recipes")
def list_recipes() -> None:
    """List the pre-training methods: what each is, where it is from, and how far it is shown to work.

    mechanism-verified: limit cases, invariances and equality with a reference, by tests.
    toy-gain: better than a named control over paired seeds, on the embedded data.
    paper-scale: better at the size of a paper.
    """
    from clipflow.recipes import table

    typer.echo(table())
