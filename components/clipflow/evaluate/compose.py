"""From results to a report: metrics, tables and the page, logged to the run that trained the checkpoint.

Needs no torch: results may have been measured elsewhere.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import report as report_artifact
from clipflow.evaluate import page, tables
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import Results
from clipflow.evaluate.subject import Subject
from clipflow.params import flat
from clipflow.significance import Interval, Values
from clipflow.track import Champion
from clipflow.track import files as track_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What a report is compared with: the champion, if it was measured on the same benchmarks."""

    champion: Champion | None
    elsewhere: Champion | None = None
    """A champion that was measured on other benchmarks, to be named and not compared with."""
    samples: Mapping[str, Values] = field(default_factory=dict)
    """The champion's values per sample, where its run still has them."""

    @classmethod
    def find(cls, model: str, measured_on: str) -> Beside:
        """The registered model's champion. Raises TrackingError."""
        found = track.champion_history(model, "train/loss")
        if found is None:
            return cls(None)
        if found.benchmarks != measured_on:
            return cls(None, found)
        with tempfile.TemporaryDirectory() as name:
            folder = track_files.report(found.run_id, report_artifact.OF_SAMPLES, Path(name))
            if folder and report_artifact.benchmarks(folder) == measured_on:
                return cls(found, None, report_artifact.samples(folder))
        return cls(found)

    def describe(self, model: str) -> str:
        """A few words for the log."""
        if self.elsewhere:
            version = self.elsewhere.version
            return f"{model} version {version} (measured on other benchmarks: not compared)"
        return f"{model} version {self.champion.version}" if self.champion else "no champion yet"


def write(
    params: Params,
    results: Results,
    subject: Subject,
    beside: Beside,
    *,
    measured_on: str,
    report: Path,
) -> None:
    """Write the report and log it. measured_on: the digest of all that was measured."""
    metrics, intervals = results.metrics(), results.intervals()
    with manifest.complete_or_absent(report) as folder:
        manifest.write_json(folder / report_artifact.METRICS, metrics)
        ends = {name: [found.low, found.high] for name, found in intervals.items()}
        manifest.write_json(folder / report_artifact.INTERVALS, ends)
        tables.write(folder / report_artifact.TABLES, results, params.robustness.severities)
        history = subject.file(checkpoint_artifact.HISTORY)
        tables.write_plots(folder / report_artifact.PLOTS, results, history)
        html = page.render(params, subject, results, intervals, beside)
        (folder / report_artifact.PAGE).write_text(html, encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest.write(
            folder,
            report_artifact.SCHEMA,
            checkpoint=subject.digest,
            benchmarks=measured_on,
            sha256={str(path.relative_to(folder)): manifest.file_digest(path) for path in files},
        )
        with track.reopen(subject.run_id, name=subject.name) as mlflow_run:
            settings = {f"evaluate.{name}": str(value) for name, value in flat(params).items()}
            mlflow_run.tag({track.BENCHMARKS: measured_on, **settings})
            mlflow_run.log(metrics, subject.steps or 0)
            mlflow_run.log_artifacts(folder, track_files.REPORT)
    logger.info("beside it: %s", beside.describe(params.champion))
    logger.info("wrote %s: %s", report, headline(metrics, intervals))


HEADLINE = ("zero_shot/mean/top1", "linear_probe/mean/top1", "retrieval/mean/recall_at_*",
            "compositional/mean/accuracy", "robustness/mean/top1")  # fmt: skip


def headline(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """The main means over tasks, with their 95 % intervals."""
    return ", ".join(
        f"{name} {value:.3f} ({intervals[name].low:.3f} to {intervals[name].high:.3f})"
        for pattern in HEADLINE
        for name, value in metrics.items()
        if fnmatchcase(name, pattern)
    )
