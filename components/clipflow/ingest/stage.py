"""The ingest stage: a source of captioned images becomes pairs and benchmarks."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from clipflow import store
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import lock, manifest
from clipflow.artifacts import pairs as pairs_artifact
from clipflow.errors import ArtifactError
from clipflow.ingest import report
from clipflow.ingest.assembly import assemble
from clipflow.ingest.fetching import fetch
from clipflow.ingest.params import Params
from clipflow.ingest.planning import plan
from clipflow.ingest.staging import Staging

logger = logging.getLogger(__name__)


def fingerprint(params: Params) -> str:
    """16 hex digits that change with the files below `ingest.data`: their names, sizes and times.

    A source that reads nothing there has the same always. Raises StoreError.
    """
    if store.is_url(params.data):
        facts: list[Any] = store.listing(params.data)
    else:
        data = Path(params.data)
        files = sorted(f for f in ([data] if data.is_file() else data.rglob("*")) if f.is_file())
        facts = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return hashlib.sha256(json.dumps(facts).encode(errors="surrogateescape")).hexdigest()[:16]


def run(params: Params, *, pairs: Path, benchmarks: Path, retry_failed: bool = False) -> None:
    """Write `pairs` and `benchmarks` from the selected source; both are complete or absent,
    and never of two runs: what one holds out, the other may not train on.

    Interrupted, the same call goes on with what it had fetched. With `retry_failed`, what an earlier
    one could not fetch is tried again, and nothing else. Single unusable samples are left out, counted
    and listed by reason in the manifest. Raises ArtifactError if the source has no usable pair or can't
    be read at all, or if there is nothing to retry.
    """
    logger.info("source %s, data %s, seed %d", params.source.name, params.data, params.seed)
    root = store.mirror(params.data) if store.is_url(params.data) else Path(params.data)
    others = [store.at_hand(location) for location in params.decontaminate]
    folder = store.scratch() / "ingest" / _identity(params)
    if retry_failed and not (folder / "plan.json").exists():
        raise ArtifactError(
            f"{folder}: expected what an earlier ingest with these params left to retry, found nothing;"
            " run without --retry-failed"
        )
    staging = Staging(folder)
    with lock.held(folder / "lock"):
        if staging.plan is None:
            plan(params, root, staging)
        _fetch(params, root, staging, retry_failed)
        with manifest.all_complete_or_absent(pairs, benchmarks) as (
            pairs_folder,
            benchmarks_folder,
        ):
            pairs_writer = pairs_artifact.Writer(pairs_folder, params.samples_per_shard)
            benchmarks_writer = benchmarks_artifact.Writer(benchmarks_folder)
            assemble(params, root, staging, others, pairs_writer, benchmarks_writer)
            facts = {k: v for k, v in (staging.plan or {}).items() if k == "curation"}
            pairs_writer.close(source=params.source.name, **facts)
            benchmarks_writer.close()
            report.write(pairs_folder)
        if pairs_writer.num_retryable:
            logger.warning(
                "%d rows may come another time: 'clipflow ingest --retry-failed' (%s is kept for it)",
                pairs_writer.num_retryable,
                folder,
            )
        else:
            shutil.rmtree(folder)
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


def _fetch(params: Params, root: Path, staging: Staging, retry_failed: bool) -> None:
    chunks = range((staging.plan or {})["num_chunks"])
    missing = [number for number in chunks if not staging.is_done(number)]
    if len(missing) < len(chunks):
        logger.info("%d of %d shards had been fetched", len(chunks) - len(missing), len(chunks))
    fetch(params, root, staging, missing, again=False)
    if retry_failed:
        failed = [n for n in chunks if any(staging.outcomes(n)["retryable"].to_pylist())]
        fetch(params, root, staging, [n for n in failed if n not in set(missing)], again=True)


def _identity(params: Params) -> str:
    """Names the work by what decides the images that come of it, but for what is applied afterwards."""
    told = params.model_dump(mode="json", exclude={"duplicates", "decontaminate"})
    told["source"] = params.source.identity()
    code = Path(__file__).parent
    files = [f for f in code.rglob("*") if f.suffix in (".py", ".txt")]
    facts = [told, fingerprint(params), manifest.files_digest(files)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
