"""Quality: how much was accepted, how far rewrites are from their captions and from each other.

Counts of outcomes are exact. All else is measured on at most NUM_SAMPLED captions, those whose keys
have the smallest hashes, so that memory and time don't grow with the number of captions.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.artifacts.rewrites import ACCEPTED, FLAG, Candidate
from clipflow.rewrite import agreement
from clipflow.rewrite.checks import plain

NUM_SAMPLED = 5_000
MAX_SOURCES = 12
"""With more sources, those with the fewest candidates are taken together."""
OTHER = "other"
ALL = "all"
MAX_ORDER = 4
"""BLEU compares up to as many words in a row."""
DECIMALS = 6
TEXTS_AT_ONCE = 2_000

Counts = Mapping[str, Mapping[str, int]]
"""Number of candidates by source and outcome, with those of flags among them."""


class Row(NamedTuple):
    """One caption with what was proposed for it."""

    key: str
    caption: str
    candidates: list[Candidate]


@dataclass
class Measured:
    """What was measured of some rewrites."""

    length_ratios: list[float] = field(default_factory=list)
    """Words of a rewrite over words of its caption."""
    bleus: list[float] = field(default_factory=list)
    """BLEU of a rewrite against the other rewrites of its caption: 0 have nothing in common."""
    cosines: list[float] = field(default_factory=list)
    """Of a rewrite and its caption."""
    num_flagged: int = 0
    num_accepted: int = 0
    grams: tuple[set[object], set[object]] = field(default_factory=lambda: (set(), set()))
    """Different words, and different pairs of words in a row."""
    num_grams: list[int] = field(default_factory=lambda: [0, 0])

    def facts(self) -> dict[str, float | None]:
        """Means, and `distinct_n`: the share of n words in a row that are different ones."""
        return {
            "length_ratio": _mean(self.length_ratios),
            "distinct_1": _share(len(self.grams[0]), self.num_grams[0]),
            "distinct_2": _share(len(self.grams[1]), self.num_grams[1]),
            "self_bleu": _mean(self.bleus),
            "agreement": _mean(self.cosines),
            "flagged": _share(self.num_flagged, self.num_accepted),
        }


def sample(folder: Path, pairs: Pairs, limit: int = NUM_SAMPLED) -> list[Row]:
    """The captions whose keys have the smallest hashes, in their order, of the shards in `folder`."""
    numbers = [n for n, tar in enumerate(pairs.shards) if (folder / f"{tar.stem}.parquet").exists()]
    hashed = (
        (_hash(key), number, place)
        for number in numbers
        for place, key in enumerate(
            artifact.column(folder, pairs.shards[number].stem, "key").to_pylist()
        )
    )
    chosen = heapq.nsmallest(limit, hashed)
    by_shard: dict[int, list[int]] = defaultdict(list)
    for _, number, place in chosen:
        by_shard[number].append(place)
    rows = {
        (number, place): row
        for number, places in by_shard.items()
        for place, row in zip(places, _rows(folder, pairs, number, places), strict=True)
    }
    return [rows[number, place] for _, number, place in chosen]


def measure(
    rows: Sequence[Row], groups: Mapping[str, str], embed: agreement.Embed | None
) -> dict[str, Measured]:
    """What the sample's accepted rewrites are like, by group of sources and of `all`."""
    found: dict[str, Measured] = defaultdict(Measured)
    for row in rows:
        num_words = len(plain(row.caption).split())
        accepted = [c for c in row.candidates if c["outcome"] == ACCEPTED]
        texts = [plain(candidate["text"]).split() for candidate in accepted]
        for candidate, words, bleu in zip(accepted, texts, self_bleu(texts), strict=True):
            for measured in (found[ALL], found[groups[candidate["source"]]]):
                _add(measured, words, num_words, bleu, is_flagged=bool(candidate.get("flags")))
    for source, cosine in _agreement(rows, embed) if embed else ():
        for measured in (found[ALL], found[groups[source]]):
            measured.cosines.append(cosine)
    return found


def facts(counts: Counts, measured: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """The figures of every group of sources and of `all`, ready for JSON."""
    groups = grouped(counts)
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for source, outcomes in counts.items():
        together[ALL].update(outcomes)
        together[groups[source]].update(outcomes)
    return {
        group: _rounded(_of_outcomes(outcomes) | measured.get(group, Measured()).facts())
        for group, outcomes in together.items()
    }


def grouped(counts: Counts) -> dict[str, str]:
    """Each source's group: itself, or `other` for those with the fewest candidates of many."""
    by_size = sorted(counts, key=lambda source: (-_num_candidates(counts[source]), source))
    if len(by_size) <= MAX_SOURCES:
        return {source: source for source in by_size}
    return {
        source: source if place < MAX_SOURCES - 1 else OTHER for place, source in enumerate(by_size)
    }


def self_bleu(texts: Sequence[Sequence[str]]) -> list[float | None]:
    """BLEU of each text against all others (None if there are none), of up to 4 words in a row.

    With one added to both counts of two words in a row and more, as texts are short. Source: Zhu et al.
    2018 (Texygen); smoothing: Lin and Och 2004.
    """
    if len(texts) < 2:
        return [None] * len(texts)
    counts = [
        [Counter(zip(*(words[n:] for n in range(order)), strict=False)) for words in texts]
        for order in range(1, MAX_ORDER + 1)
    ]
    return [_bleu(texts, counts, i) for i in range(len(texts))]


def _bleu(
    texts: Sequence[Sequence[str]], counts: Sequence[Sequence[Counter[Any]]], i: int
) -> float:
    others = [n for n in range(len(texts)) if n != i]
    length, log_precision = len(texts[i]), 0.0
    num_orders = min(MAX_ORDER, length)
    for order in range(num_orders):
        of_order, extra = counts[order], int(order > 0)
        matched = extra + _matched(of_order[i], [of_order[n] for n in others])
        if not matched:
            return 0.0
        log_precision += math.log(matched / (length - order + extra)) / num_orders
    closest = min((len(texts[n]) for n in others), key=lambda other: (abs(other - length), other))
    return math.exp(log_precision + min(0.0, 1 - closest / length)) if length else 0.0


def _matched(grams: Counter[Any], others: Sequence[Counter[Any]]) -> int:
    """How many of `grams` are matched, each as often as in the one of `others` that has most of it."""
    num = 0
    for gram, count in grams.items():
        most = 0
        for other in others:
            if gram in other and other[gram] > most:
                most = other[gram]
        num += min(count, most)
    return num


def _add(
    measured: Measured,
    words: list[str],
    num_caption_words: int,
    bleu: float | None,
    *,
    is_flagged: bool,
) -> None:
    measured.num_accepted += 1
    measured.num_flagged += is_flagged
    if num_caption_words:
        measured.length_ratios.append(len(words) / num_caption_words)
    if bleu is not None:
        measured.bleus.append(bleu)
    measured.grams[0].update(words)
    measured.grams[1].update(pairwise(words))
    measured.num_grams[0] += len(words)
    measured.num_grams[1] += max(0, len(words) - 1)


def _agreement(rows: Sequence[Row], embed: agreement.Embed) -> Iterator[tuple[str, float]]:
    """The source and the cosine of every accepted rewrite."""
    pairs = [
        (c["source"], row.caption, c["text"])
        for row in rows
        for c in row.candidates
        if c["outcome"] == ACCEPTED
    ]
    for first in range(0, len(pairs), TEXTS_AT_ONCE):
        sources, captions, texts = zip(*pairs[first : first + TEXTS_AT_ONCE], strict=True)
        found = agreement.cosines(embed, list(captions), list(texts))
        yield from zip(sources, found.tolist(), strict=True)


def _rows(folder: Path, pairs: Pairs, number: int, places: list[int]) -> Iterator[Row]:
    index = pairs.index(number).select(["key", "caption"]).take(places).to_pylist()
    provenance = artifact.column(folder, pairs.shards[number].stem, "provenance")
    for row, candidates in zip(index, provenance.take(places).to_pylist(), strict=True):
        yield Row(row["key"], row["caption"], candidates)


def _of_outcomes(outcomes: Mapping[str, int]) -> dict[str, Any]:
    num = _num_candidates(outcomes)
    accepted = outcomes.get(ACCEPTED, 0)
    return {
        "num_candidates": num,
        "num_accepted": accepted,
        "acceptance": _share(accepted, num),
        "copy_rate": _share(outcomes.get("copy", 0), num),
        "rejected": {
            outcome: n
            for outcome, n in outcomes.items()
            if outcome != ACCEPTED and not outcome.startswith(FLAG)
        },
        "flags": {
            outcome.removeprefix(FLAG): n
            for outcome, n in outcomes.items()
            if outcome.startswith(FLAG)
        },
    }


def _num_candidates(outcomes: Mapping[str, int]) -> int:
    return sum(n for outcome, n in outcomes.items() if not outcome.startswith(FLAG))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _rounded(facts: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, DECIMALS) if isinstance(v, float) else v for k, v in facts.items()}


def _hash(key: str) -> int:
    return zlib.crc32(key.encode())
