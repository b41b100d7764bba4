"""rewrite: asks the generator for rewrites of every caption and keeps what passes the checks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipflow import log
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import GeneratorError
from clipflow.rewrite import checks
from clipflow.rewrite.generators import Proposal, Request
from clipflow.rewrite.params import Params

logger = logging.getLogger(__name__)


def run(params: Params, *, pairs: Path, rewrites: Path) -> None:
    """Write a `rewrites` artifact with a row for every pair. An interrupted run leaves none.

    Raises ArtifactError if `pairs` is no pairs artifact, GeneratorError if the generator fails.
    """
    source = Pairs(pairs)
    logger.info(
        "generator %s, %d rewrites of each of %d captions, from %s",
        params.generator.name, params.num_rewrites, len(source), pairs,
    )  # fmt: skip
    proposals = params.generator.propose(_requests(source, params))
    with (
        manifest.complete_or_absent(rewrites) as folder,
        log.progress(proposals, total=len(source), what="rewriting", unit="captions") as bar,
    ):
        writer, answers = artifact.Writer(folder), iter(bar)
        for name, keys, captions in source.by_shard():
            rows = {}
            for key, caption in zip(keys, captions, strict=True):
                rows[key] = judge(caption, _next(answers, key, params), params.max_words)
            writer.add_shard(name, rows)
        writer.close(
            generator=params.generator.model_dump(mode="json"),
            num_rewrites=params.num_rewrites,
            pairs=manifest.digest(pairs),
        )
    logger.info("%s", _summary(writer, rewrites))


def seed_of(seed: int, key: str) -> int:
    """64 bits fixed by the run's seed and the pair's key, whatever the shard, order or process."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8])


def judge(caption: str, proposals: Iterable[Proposal], max_words: int) -> list[artifact.Candidate]:
    """Every proposal with its outcome; each is compared with those accepted before it."""
    accepted: list[str] = []
    candidates: list[artifact.Candidate] = []
    for proposal in proposals:
        outcome = checks.outcome(proposal.text, caption, accepted, max_words=max_words)
        if outcome == checks.ACCEPTED:
            accepted.append(proposal.text)
        candidates.append({"text": proposal.text, "source": proposal.source, "outcome": outcome})
    return candidates


def _requests(pairs: Pairs, params: Params) -> Iterator[Request]:
    for _, keys, captions in pairs.by_shard():
        for key, caption in zip(keys, captions, strict=True):
            yield Request(key, caption, params.num_rewrites, seed_of(params.seed, key))


def _next(answers: Iterator[list[Proposal]], key: str, params: Params) -> list[Proposal]:
    try:
        return next(answers)
    except StopIteration:
        raise GeneratorError(
            f"generator '{params.generator.name}' stopped before pair '{key}': expected one list of"
            " proposals per caption; mend its propose()"
        ) from None


def _summary(writer: artifact.Writer, folder: Path) -> str:
    num_pairs = sum(shard["num_pairs"] for shard in writer.shards)
    num_candidates = writer.outcomes.total()
    num_accepted = writer.outcomes[checks.ACCEPTED]
    rejected = [f"{n} {o}" for o, n in writer.outcomes.most_common() if o != checks.ACCEPTED]
    return (
        f"wrote {folder}: accepted {num_accepted} of {num_candidates} candidates"
        f" ({num_accepted / max(1, num_candidates):.1%}), rejected {', '.join(rejected) or 'none'};"
        f" {writer.num_fallback} of {num_pairs} captions fall back to the original alone"
    )
