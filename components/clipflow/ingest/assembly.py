"""Third pass: what was fetched becomes shards and benchmarks, less what all of it together rules out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipflow import log
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import pairs as pairs_artifact
from clipflow.artifacts.pairs import HELD_OUT, KEPT
from clipflow.ingest import duplicates
from clipflow.ingest.images import NUM_WORDS, UnusableImageError, fingerprint
from clipflow.ingest.params import Params
from clipflow.ingest.staging import GOOD, Staging, hashes

logger = logging.getLogger(__name__)

EXACT, NEAR, IN_BENCHMARK = "exact duplicate", "near duplicate", "in a benchmark"
OTHER_CAPTION = "another caption of the same image"


def assemble(
    params: Params,
    root: Path,
    staging: Staging,
    others: Sequence[Path],
    pairs: pairs_artifact.Writer,
    benchmarks: benchmarks_artifact.Writer,
) -> None:
    """Fill both artifacts, a shard for each chunk, in the order of the rows.

    `others`: benchmarks artifacts whose images may not be trained on either.
    """
    plan = staging.plan or {}
    chunks = range(plan["num_chunks"])
    ruled_out = _ruled_out(params, staging, chunks, others)
    with params.source.held_out(root, benchmarks) as task:
        for number in log.progress(chunks, total=len(chunks), what="writing", unit="shard"):
            pairs.begin_shard(number)
            _write(staging, number, ruled_out.get(number, {}), pairs, task)
    params.source.add_benchmarks(params, benchmarks)


def _write(
    staging: Staging,
    number: int,
    ruled_out: dict[int, str],
    pairs: pairs_artifact.Writer,
    task: benchmarks_artifact.TaskWriter | None,
) -> None:
    outcomes, images = staging.outcomes(number).to_pylist(), staging.images(number)
    table = list[dict[str, Any]]()
    for index, (row, found) in enumerate(zip(staging.rows(number), outcomes, strict=True)):
        outcome, step = found["outcome"], found["step"]
        if not outcome:
            outcome, step = (ruled_out[index], "all") if index in ruled_out else (KEPT, "")
        if outcome == KEPT and row.held_out:
            outcome = HELD_OUT
        table.append({
            "key": row.key, "name": row.name.encode(errors="backslashreplace").decode(),
            "outcome": outcome, "step": step, "retryable": found["retryable"],
            "width_px": found["source_width_px"], "height_px": found["source_height_px"],
        })  # fmt: skip
        if outcome not in (KEPT, HELD_OUT):
            pairs.leave_out(outcome, row.name)
            continue
        jpeg = images.read(found["offset"], found["size"])
        classified = row.label is not None
        if outcome == HELD_OUT:
            assert task is not None, f"{row.name}: held out, but the source has no task"
            task.add("test", jpeg, row.label if row.label is not None else row.captions)
            continue
        if task is not None and row.label is not None:
            task.add("train", jpeg, row.label)
        pairs.add(row.key, jpeg, row.captions[0], row.facts)
        for _ in row.captions[1:] if not classified else ():
            pairs.leave_out(OTHER_CAPTION, row.name)
    images.close()
    pairs.add_outcomes(number, table)


def _ruled_out(
    params: Params, staging: Staging, chunks: Sequence[int], others: Sequence[Path]
) -> dict[int, dict[int, str]]:
    """By chunk and row in it, why a good image isn't taken: another has it, or a benchmark."""
    rules = params.duplicates
    if not rules.exact and rules.near_bits is None and rules.benchmark_bits is None:
        return {}
    places, held, attempts, digests, words = _good(staging, chunks)
    rank = np.lexsort((np.arange(len(attempts)), attempts)).argsort()
    train = np.flatnonzero(~held)
    reasons = np.full(len(held), "", object)
    if rules.benchmark_bits is not None:
        reference = np.concatenate([words[held], *map(_benchmark_hashes, others)])
        found = duplicates.contaminated(words[train], reference, rules.benchmark_bits)
        reasons[train[found >= 0]] = IN_BENCHMARK
        train = train[found < 0]
    if rules.exact:
        found = duplicates.exact(digests[train], rank[train])
        reasons[train[found >= 0]] = EXACT
        train = train[found < 0]
    if rules.near_bits is not None:
        found = duplicates.near(words[train], rules.near_bits, rank[train])
        reasons[train[found >= 0]] = NEAR
    ruled_out = dict[int, dict[int, str]]()
    for place in np.flatnonzero(reasons != ""):
        chunk, index = places[place]
        ruled_out.setdefault(int(chunk), {})[int(index)] = str(reasons[place])
    return ruled_out


def _good(staging: Staging, chunks: Sequence[int]) -> tuple[Any, Any, Any, Any, Any]:
    """Of every good image: chunk and row in it, held out or not, attempt, digest and hash."""
    places, held, attempts, digests, words = [], [], [], [], []
    for number in chunks:
        table = staging.outcomes(number)
        good = np.flatnonzero(np.asarray(table["outcome"].to_pylist(), object) == GOOD)
        places.append(np.stack([np.full(len(good), number), good], axis=1))
        table = table.take(pa.array(good))
        held.append(np.array(table["held_out"].to_pylist(), bool))
        attempts.append(table["attempt"].to_numpy())
        digests.append(table["digest"].to_numpy())
        if len(good):
            words.append(hashes(table["hash"]))
    empty = [np.zeros((0, NUM_WORDS), np.uint64)]
    return (
        np.concatenate(places),
        np.concatenate(held),
        np.concatenate(attempts),
        np.concatenate(digests),
        np.concatenate(words or empty),
    )


def _benchmark_hashes(folder: Path) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The hashes of all test images of a benchmarks artifact."""
    words = list(_hashes(benchmarks_artifact.read(folder)))
    return np.array(words, np.uint64).reshape(-1, NUM_WORDS)


def _hashes(tasks: Sequence[benchmarks_artifact.Task]) -> Iterator[Sequence[int]]:
    for task in tasks:
        for jpeg, _ in log.progress(task.samples("test"), total=task.num_samples["test"],
                                    what=f"hashing {task.name}", unit="image"):  # fmt: skip
            try:
                yield fingerprint(jpeg)
            except UnusableImageError:
                logger.warning("%s: an image that can't be read is passed over", task.folder)
