"""What `--help` says by hand is all there is."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from clipflow.catalogue import Catalogue
from clipflow.cli import app


def test_every_generator_is_in_the_help_of_rewrite() -> None:
    shown = CliRunner().invoke(app, ["rewrite", "--help"]).output
    named = re.findall(r"^ ([a-z_]+)  +\w", shown, re.MULTILINE)
    assert sorted(named) == Catalogue("clipflow.rewrite.generators").names()
