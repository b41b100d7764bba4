"""From results to a report: metrics, tables and the page, logged to the run that trained the checkpoint.

Needs no torch: results may have been measured elsewhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from clipflow import track
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import report as report_artifact
from clipflow.evaluate import page, tables
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import Model, Results
from clipflow.track import Champion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What a report is compared with: the champion, if it was measured on the same benchmarks."""

    champion: Champion | None
    elsewhere: Champion | None
    """A champion that was measured on other benchmarks, to be named and not compared with."""

    @classmethod
    def find(cls, model: str, benchmarks: Path) -> Beside:
        """The registered model's champion. Raises TrackingError."""
        found = track.champion_history(model, "train/loss")
        if found and found.benchmarks != manifest.digest(benchmarks):
            return cls(None, found)
        return cls(found, None)

    def describe(self, model: str) -> str:
        """A few words for the log."""
        if self.elsewhere:
            version = self.elsewhere.version
            return f"{model} version {version} (measured on other benchmarks: not compared)"
        return f"{model} version {self.champion.version}" if self.champion else "no champion yet"


def write(
    params: Params,
    results: Results,
    model: Model,
    beside: Beside,
    *,
    checkpoint: Path,
    benchmarks: Path,
    report: Path,
) -> None:
    """Write the report and log it."""
    facts = checkpoint_artifact.read(checkpoint)
    run_id = checkpoint_artifact.provenance(checkpoint)["mlflow_run_id"]
    metrics = results.metrics()
    with manifest.complete_or_absent(report) as folder:
        manifest.write_json(folder / report_artifact.METRICS, metrics)
        tables.write(folder / report_artifact.TABLES, results)
        html = page.render(
            params,
            checkpoint,
            facts,
            benchmarks_artifact.read(benchmarks),
            model,
            results,
            champion=beside.champion,
            elsewhere=beside.elsewhere,
        )
        (folder / report_artifact.PAGE).write_text(html, encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest.write(
            folder,
            report_artifact.SCHEMA,
            checkpoint=manifest.digest(checkpoint),
            benchmarks=manifest.digest(benchmarks),
            sha256={str(path.relative_to(folder)): manifest.file_digest(path) for path in files},
        )
        with track.reopen(run_id, name=facts["recipe"]) as mlflow_run:
            mlflow_run.log(metrics, facts["params"]["steps"])
            mlflow_run.log_artifacts(folder, "report")
    logger.info(
        "wrote %s: %s",
        report,
        ", ".join(f"{k} {v:.3f}" for k, v in sorted(headline(metrics).items())),
    )


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The means over tasks."""
    return {name: value for name, value in metrics.items() if "/mean/" in name}
