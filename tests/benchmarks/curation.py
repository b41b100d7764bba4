"""Captions per second that MetaCLIP's curation matches and balances, on one core, at 500,000 entries.

    make bench-curation        which is        python tests/benchmarks/curation.py

The peer looks for every entry in every caption, as MetaCLIP's published code does, expressed anew. Entries
are words and pairs of words, captions nine words drawn by Zipf's law.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import harness

from clipflow.ingest.curation import WRAPPED, Curation, Curator

NUM_WORDS = 200_000
NAIVE_CAPTIONS = 100
BATCH = 1000
"""`ingest.samples_per_shard`."""


def main() -> None:
    """Make entries and captions, then measure both sides, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=500_000)
    parser.add_argument("--captions", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rng = random.Random(0)
    words = sorted(
        {"".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 11)))
         for _ in range(NUM_WORDS)}
    )  # fmt: skip
    rng.shuffle(words)
    weights = [1 / (rank + 10) for rank in range(len(words))]
    drawn = rng.choices(words, weights, k=2 * args.entries)
    pairs = [" ".join(drawn[n : n + 2]) for n in range(0, len(drawn), 2)]
    entries = list(dict.fromkeys([*words, *pairs]))[: args.entries]
    drawn = rng.choices(words, weights, k=9 * args.captions)
    captions = [" ".join(drawn[9 * n : 9 * n + 9]) for n in range(args.captions)]
    keys = [f"{n:016x}" for n in range(args.captions)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metadata.json"
        file.write_text(json.dumps(entries))
        curator = Curator(Curation(metadata_file=str(file), t=args.captions // 1000), seed=0)
    spaced = [f" {entry} " for entry in entries]
    matched, balanced, naive = [], [], []
    for _ in range(args.runs):
        matched.append(rate(lambda: match(curator, captions), args.captions))
        naive.append(rate(lambda: search(spaced, captions[:NAIVE_CAPTIONS]), NAIVE_CAPTIONS))
        balanced.append(rate(lambda: both_passes(curator, keys, captions), args.captions))
    for caption in captions[:20]:
        assert set(curator.matches([caption])[1].tolist()) == search(spaced, [caption])[0]
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{len(entries):,} entries, peak memory of the process {mib:.0f} MiB\n")
    harness.report(
        "curation",
        [
            harness.Comparison("matching", matched, naive, "every entry in every caption",
                               "captions/s", "more"),
            harness.Comparison("both passes: count, then match again and draw", balanced, naive,
                               "every entry in every caption, once", "captions/s", "more"),
        ],
    )  # fmt: skip


def rate(work: object, num: int) -> float:
    """Captions per second."""
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return num / (time.perf_counter() - start)


def match(curator: Curator, captions: list[str]) -> None:
    """A batch at a time, as ingest does."""
    for start in range(0, len(captions), BATCH):
        curator.matches(captions[start : start + BATCH])


def both_passes(curator: Curator, keys: list[str], captions: list[str]) -> None:
    """What ingest does."""
    for start in range(0, len(captions), BATCH):
        curator.count(captions[start : start + BATCH])
    for start in range(0, len(captions), BATCH):
        curator.keeps(keys[start : start + BATCH], captions[start : start + BATCH])


def search(spaced: list[str], captions: list[str]) -> list[set[int]]:
    """The entries in each caption, one after the other."""
    found = []
    for caption in captions:
        text = f" {caption} "
        for mark in WRAPPED:
            text = text.replace(mark, f" {mark} ")
        found.append({number for number, entry in enumerate(spaced) if entry in text})
    return found


if __name__ == "__main__":
    main()
