"""The `clipflow` command. Each module here has the commands of one area."""

from __future__ import annotations

import sys
from typing import Any

import typer

from clipflow.cli import compare, models, recipes, rewrites, running, search, stages
from clipflow.errors import ClipflowError

app = typer.Typer(
    help="Pre-train CLIP-family models with language rewrites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
EXTRAS = "install clipflow with its extras: pip install 'clipflow[train,search]'"
for area in (stages, running, recipes, compare, search, models, rewrites):
    app.add_typer(area.app)


def main(*args: Any) -> None:
    """Run the command line: a ClipflowError is one line and exit status 2, Ctrl-C is 130."""
    try:
        app(*args)
    except ClipflowError as error:
        sys.exit(_fail(str(error), 2))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "clipflow":
            raise
        sys.exit(_fail(f"this command needs '{package}', which isn't installed; {EXTRAS}", 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; nothing half-written was left behind", 130))


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"clipflow: {message}\n")
    return status
