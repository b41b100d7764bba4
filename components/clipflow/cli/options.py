"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
