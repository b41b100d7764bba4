"""`report`: what a checkpoint can do, for machines and for people.

report/metrics.json      flat, fractions in [0, 1]: `zero_shot/<task>/top1`, `retrieval/<task>/...`
report/report.html       self-contained page with pictures
report/tables/           what the pictures show: see evaluate/tables.py
report/manifest.json     digests of the checkpoint and the benchmarks
"""

from __future__ import annotations

import json
from pathlib import Path

from clipflow.artifacts import manifest

SCHEMA = "clipflow.report/1"
METRICS = "metrics.json"
PAGE = "report.html"
TABLES = "tables"


def benchmarks(folder: Path) -> str:
    """The digest of what the report was measured on. Raises ArtifactError for another folder."""
    return str(manifest.read(folder, SCHEMA).get("benchmarks", "none"))


def metrics(folder: Path) -> dict[str, float]:
    """The metrics of a report. Raises ArtifactError for another kind of folder."""
    manifest.read(folder, SCHEMA)
    return dict(json.loads((folder / METRICS).read_text(encoding="utf-8")))
