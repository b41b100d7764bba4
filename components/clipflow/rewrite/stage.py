"""rewrite: asks the generator for rewrites of every caption and keeps what passes the checks."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipflow import log, track
from clipflow import params as params_file
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import SCHEMA as PAIRS
from clipflow.artifacts.pairs import Pairs, without_images
from clipflow.errors import GeneratorError, ParamsError
from clipflow.rewrite import agreement, report
from clipflow.rewrite.cache import Cache
from clipflow.rewrite.desk import Desk
from clipflow.rewrite.judge import Judge
from clipflow.rewrite.params import Params
from clipflow.rewrite.quality import ALL

logger = logging.getLogger(__name__)

METRIC_NAME = re.compile(r"[\w. -]+", re.ASCII)
OBJECTS_PER_COLLECTION = 50_000
RANGE = re.compile(r"(\d+)(:|/)(\d+)")


def run(params: Params, *, pairs: Path, rewrites: Path, shard_range: str | None = None) -> None:
    """Write a `rewrites` artifact with a row for every pair, or for every pair of some shards.

    Killed or interrupted, the next call with the same params, pairs and code goes on: shards that are done
    are not done again, and answers that were received are not asked for again. Raises ArtifactError if
    `pairs` is no pairs artifact, ParamsError for a `shard_range` that there is not, TrackingError before
    anything is written if MLflow is down, GeneratorError if the generator fails or its budget is used up.
    """
    source = Pairs(pairs, images=params.generator.sees_images)
    shards = shards_of(shard_range, len(source.shards))
    track.connect()
    embed = agreement.load(params.agreement) if params.agreement else None
    made_with = {
        "params": params.model_dump(mode="json", exclude={"generator"}),
        "generator": params.generator.identity(),
        "pairs": manifest.digest(pairs),
        "shards": [shards.start, shards.stop],
        "code": _code_digest(),
    }
    with manifest.resumable(rewrites, made_with) as folder, _tracked(params, pairs, folder) as run:
        writer = artifact.Writer(folder)
        todo = [n for n in shards if not writer.has(source.shards[n].stem)]
        logger.info(
            "generator %s, %d rewrites of each of %d captions in %d shards, %d of them done, from %s",
            params.generator.name, params.num_rewrites,
            sum(source.manifest["shards"][n]["num_pairs"] for n in shards),
            len(shards), len(shards) - len(todo), pairs,
        )  # fmt: skip
        _write(params, source, todo, writer)
        generator = params.generator
        facts = report.finish(
            writer, source, embed, params=made_with["params"],
            generator=generator.model_dump(mode="json", exclude=set(generator.not_written)),
        )  # fmt: skip
        run.log(_metrics(facts), step=0)
        for file in (report.FILE, manifest.MANIFEST):
            run.log_artifacts(folder / file, "rewrites")
    logger.info("%s", summary(rewrites))


def parts_of(pairs: Path, num_parts: int) -> list[str]:
    """`0/N`, `1/N`, ...: shard ranges for so many parts, but no more than there are shards."""
    num_shards = len(manifest.read(pairs, PAIRS)["shards"])
    num = max(1, min(num_parts, num_shards))
    return [f"{part}/{num}" for part in range(num)]


def for_part(params: Params, shard_range: str) -> Params:
    """The params of part `I/N`, one of N at once: each has its share of limits and budgets."""
    num_parts = int(shard_range.rpartition("/")[2])
    return params.model_copy(update={"generator": params.generator.share(num_parts)})


def wanted(params: Params) -> Callable[[str], bool]:
    """Which files of the pairs the generator needs: without eyes, not the images."""
    return without_images if not params.generator.sees_images else lambda _: True


def shards_of(text: str | None, num_shards: int) -> range:
    """The shards that `A:B` (from A to before B) or `I/N` (part I of N, from 0) names; None names all.

    Raises ParamsError for anything else, and for shards that there are not.
    """
    if text is None:
        return range(num_shards)
    found = RANGE.fullmatch(text)
    first, sign, last = (int(found[1]), found[2], int(found[3])) if found else (0, "", 0)
    if sign == "/" and first < last:
        return range(first * num_shards // last, (first + 1) * num_shards // last)
    if sign == ":" and first < last <= num_shards:
        return range(first, last)
    raise ParamsError(
        f"--shard-range: expected A:B with 0 <= A < B <= {num_shards}, the number of shards, or I/N for"
        f" part I of N counted from 0, got '{text}'"
    )


@contextmanager
def _tracked(params: Params, pairs: Path, folder: Path) -> Iterator[track.Run]:
    """The MLflow run; that of an interrupted call goes on."""
    note = folder / "mlflow_run"
    inputs = {"pairs": pairs}
    with track.start(
        f"rewrite-{params.generator.name}",
        params=params_file.flat(params),
        tags={**track.lineage(inputs), "generator": params.generator.name},
        datasets=inputs,
        run_id=note.read_text() if note.exists() else None,
    ) as run:
        note.write_text(run.id)
        yield run
    note.unlink()


def metrics(folder: Path) -> dict[str, float]:
    """The figures of a `rewrites` artifact that MLflow has too, over all sources."""
    found = _metrics(manifest.read(folder, artifact.SCHEMA))
    return {name: value for name, value in found.items() if name.count("/") == 1}


def _metrics(facts: dict[str, Any]) -> dict[str, float]:
    """`rewrite/acceptance` and the like, and `rewrite/<source>/...` where MLflow takes its name."""
    found = {
        "rewrite/num_captions": facts["num_pairs"],
        "rewrite/num_without_rewrite": facts["num_without_rewrite"],
    }
    for group, figures in facts["quality"]["figures"].items():
        if group != ALL and not METRIC_NAME.fullmatch(group):
            continue
        place = "rewrite" if group == ALL else f"rewrite/{group}"
        found |= {f"{place}/{k}": v for k, v in figures.items() if isinstance(v, (int, float))}
    return found


def _write(params: Params, source: Pairs, todo: list[int], writer: artifact.Writer) -> None:
    """Have the generator answer for the shards that are not done."""
    if not todo:
        return
    cache = Cache(params.generator)
    desk = Desk(source, params, cache, judge=Judge(params), write=writer.add_shard)
    total = params.num_rewrites * sum(source.manifest["shards"][n]["num_pairs"] for n in todo)
    try:
        with (
            _collected_seldom(),
            log.counter(total=total, what="rewriting", unit="rewrite") as bar,
        ):
            for answers in params.generator.propose(desk.tasks(todo, done=bar.update)):
                desk.take(answers)
                bar.update(sum(answer.task.num for answer in answers))
    finally:
        cache.close()
    name = params.generator.name
    if desk.over_budget:
        raise GeneratorError(
            f"generators.{name}: stopped at the budget: {desk.over_budget}; what was written is kept:"
            " raise the budget and run it again to go on from here"
        )
    if desk.num_unanswered:
        raise GeneratorError(
            f"generator '{name}' left {desk.num_unanswered} tasks unanswered: expected one answer to each;"
            " mend its propose()"
        )
    if desk.usage.read:
        logger.info(
            "%d answers asked for, %d remembered; in all runs of this generator %d tokens read, %d written",
            desk.num_asked, desk.num_remembered, *desk.usage,
        )  # fmt: skip


@contextmanager
def _collected_seldom() -> Iterator[None]:
    """Millions of small objects come and go by their reference counts; looking for cycles among them, and
    among all that was imported, would take a third of the time around a fast model.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _code_digest() -> str:
    """Changes with any line that makes or judges rewrites."""
    files = Path(__file__).parent.rglob("*")
    return manifest.files_digest(f for f in files if f.suffix in {".py", ".txt", ".tsv"})


def summary(folder: Path) -> str:
    """What a `rewrites` artifact came to, in one line."""
    facts = manifest.read(folder, artifact.SCHEMA)
    outcomes = sorted(facts["outcomes"].items(), key=lambda item: (-item[1], item[0]))
    num_candidates = sum(facts["outcomes"].values())
    num_accepted = facts["outcomes"].get(artifact.ACCEPTED, 0)
    rejected = [f"{n} {outcome}" for outcome, n in outcomes if outcome != artifact.ACCEPTED]
    return (
        f"wrote {folder}: accepted {num_accepted} of {num_candidates} candidates"
        f" ({num_accepted / max(1, num_candidates):.1%}), rejected {', '.join(rejected) or 'none'};"
        f" {facts['num_without_rewrite']} of {facts['num_pairs']} captions fall back to the original alone"
    )
