"""The ingest stage: a source of captioned images becomes pairs and benchmarks."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts import pairs as pairs_artifact
from clipflow.ingest.params import Params

logger = logging.getLogger(__name__)


def fingerprint(params: Params) -> str:
    """16 hex digits that change with the files below `ingest.data`: their names, sizes and times.

    A source that reads nothing there has the same always.
    """
    data = Path(params.data)
    files = sorted(f for f in ([data] if data.is_file() else data.rglob("*")) if f.is_file())
    facts = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return hashlib.sha256(json.dumps(facts).encode(errors="surrogateescape")).hexdigest()[:16]


def run(params: Params, *, pairs: Path, benchmarks: Path) -> None:
    """Write `pairs` and `benchmarks` from the selected source; both are complete or absent,
    and never of two runs: what one holds out, the other may not train on.

    Raises ArtifactError if the source has no usable pair or can't be read at all. Single unusable
    samples are left out, counted and listed by reason in the manifest.
    """
    logger.info("source %s, data %s, seed %d", params.source.name, params.data, params.seed)
    with manifest.all_complete_or_absent(pairs, benchmarks) as (pairs_folder, benchmarks_folder):
        pairs_writer = pairs_artifact.Writer(pairs_folder, params.samples_per_shard)
        benchmarks_writer = benchmarks_artifact.Writer(benchmarks_folder)
        params.source.fill(params, pairs_writer, benchmarks_writer)
        pairs_writer.close(source=params.source.name)
        benchmarks_writer.close()
    for reason, count in sorted(pairs_writer.num_left_out.items()):
        logger.warning("left out %d: %s (listed in %s)", count, reason, pairs / manifest.MANIFEST)
    logger.info(
        "wrote %s: %d pairs in %d shards; %s: %s",
        pairs,
        sum(shard["num_pairs"] for shard in pairs_writer.shards),
        len(pairs_writer.shards),
        benchmarks,
        ", ".join(benchmarks_writer.tasks) or "no task",
    )
