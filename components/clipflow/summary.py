"""What happened: the end of `make demo`, and `clipflow summary` at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import registration as registrations
from clipflow.artifacts import report as reports

COLUMNS = {
    "zero-shot": "zero_shot/mean/top1",
    "canonical": "zero_shot/mean/top1_canonical",
    "retrieval R@1": "retrieval/mean/recall_at_1",
    "linear probe": "linear_probe/mean/top1",
}
MAX_EARLIER = 5


def describe(checkpoint: Path, report: Path, registration: Path) -> str:
    """The latest run beside earlier ones, what was registered and why, and where to look."""
    trained = checkpoints.provenance(checkpoint)
    facts = checkpoints.read(checkpoint)
    decision = registrations.read(registration)
    rows = [(f"{facts['recipe']} (this run)", reports.metrics(report))]
    rows += [
        (run.name, run.metrics)
        for run in track.finished_runs(with_metric=COLUMNS["zero-shot"], limit=MAX_EARLIER + 1)
        if run.id != trained["mlflow_run_id"]
    ][:MAX_EARLIER]
    lines = [
        "",
        *_table(rows),
        "",
        f"Registered   {_registered(decision, checkpoint, report)}",
        *(f"             {reason}" for reason in decision["reasons"]),
        f"Report       {(report / reports.PAGE).absolute().as_uri()}",
        f"MLflow       make ui, then http://127.0.0.1:5000 (run {trained['mlflow_run_id']})",
        "Compare      dvc exp run -S pretrain.recipe=clip",
    ]
    return "\n".join(lines)


def _registered(decision: dict[str, Any], checkpoint: Path, report: Path) -> str:
    """The version as the registry has it now; the artifact may be older, out of DVC's cache."""
    digests = {
        "checkpoint_digest": manifest.digest(checkpoint),
        "report_digest": manifest.digest(report),
    }
    version = track.registered(decision["model"], digests)
    if version is None:
        return (
            f"{decision['model']} version {decision['version']} is not in this registry any more;"
            " run 'dvc repro --force --single-item register'"
        )
    aliases = " ".join(f"@{alias}" for alias in track.aliases(version))
    return f"{decision['model']} version {version.version} {aliases or '(without an alias now)'}"


def _table(rows: list[tuple[str, dict[str, float]]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    lines = [" ".join(["recipe".ljust(width), *(f"{column:>14}" for column in COLUMNS)])]
    for name, metrics in rows:
        cells = (_percent(metrics.get(metric)) for metric in COLUMNS.values())
        lines.append(" ".join([name.ljust(width), *(f"{cell:>14}" for cell in cells)]))
    return lines


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
