"""merge: the parts that `clipflow evaluate --task` wrote, as the one report of a run over all tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from clipflow import track
from clipflow.evaluate import compose, suites
from clipflow.evaluate import parts as part_files
from clipflow.evaluate.compose import Beside
from clipflow.evaluate.params import Params

logger = logging.getLogger(__name__)


def run(
    params: Params, parts: Sequence[Path], *, checkpoint: Path, benchmarks: Path, report: Path
) -> None:
    """Write the report that one run over all tasks would have written, and log it to MLflow once.

    Needs no torch. Raises ArtifactError for parts that don't belong together or are not all there.
    """
    digest = suites.measured_on(params, benchmarks)
    results, subject = part_files.read(
        parts,
        params,
        checkpoint=checkpoint,
        measured_on=digest,
        names=suites.names(params, benchmarks),
    )
    track.connect()
    beside = Beside.find(params.champion, digest)
    logger.info("%d parts; beside them: %s", len(parts), beside.describe(params.champion))
    compose.write(params, results, subject, beside, measured_on=digest, report=report)
