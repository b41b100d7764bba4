"""Captions per second and memory of all that surrounds the model: prompts, parsing, checks, cache, parquet.

    make bench-rewrite-overhead        which is        python tests/benchmarks/rewrite_overhead.py

The model answers at once. Ours is the whole stage on one core: prompts from blocks, cache, checks, parquet
and report. The peer does what LaCLIP's script does around its model: prompts with three pairs drawn
per caption, the answer cut out by line number, and after every batch of 100 the whole output file written
again; it checks and remembers nothing. One rewrite per caption, as one run of that script makes, and four.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

import harness

from clipflow import track
from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs, Writer
from clipflow.rewrite import prompts, stage
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage
from clipflow.rewrite.params import Params

WORDS = (prompts.FOLDER / "human.tsv").read_text().split()
BATCH = 100
AT_ONCE = 256
"""Answers that come together, as from a busy server."""


class Instant(Generator):
    """A model that takes no time: it says the caption with its words in another order."""

    few_shot_blocks: ClassVar[int] = 64

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """Answers as they would come from a model."""
        tasks = iter(tasks)
        while batch := list(islice(tasks, AT_ONCE)):
            answers = []
            for task in batch:
                prompt = prompts.draw(task.caption, task.first, task.seed, self.few_shot_blocks)
                text = prompt.text
                proposal = Proposal(prompts.parse(complete(text)), prompt.provenance)
                answers.append(Answer(task, [proposal], Usage(len(text) // 4, 12)))
            yield answers


def complete(prompt: str) -> str:
    """What the model writes after a prompt."""
    words = prompt[prompt.rindex("\n") + 1 : -3].split()
    return " " + " ".join(words[1:] + words[:1]) + "\nmore => than was asked for"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--memory-captions", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "peer"])
    parser.add_argument("--rewrites", type=int, default=1)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(SIDES[args.side](args.captions, args.rewrites)))
        return
    comparisons = []
    for num in (1, 4):
        ours, peer = harness.alternate(
            lambda n=num: run("ours", args.captions, n)["captions_per_s"],
            lambda n=num: run("peer", args.captions, n)["captions_per_s"],
            args.runs,
        )
        comparisons.append(
            harness.Comparison(
                f"{args.captions} captions, {num} rewrites of each, one core",
                ours, peer, "LaCLIP's bookkeeping", "captions/s", "more",
            )
        )  # fmt: skip
    if args.memory_captions:
        small, large = (
            run("ours", n, 1)["peak_mib"] for n in (args.captions, args.memory_captions)
        )
        print(f"peak memory: {small:.0f} MiB at {args.captions} captions, {large:.0f} MiB at"
              f" {args.memory_captions}")  # fmt: skip
    harness.report("rewrite-overhead", comparisons)


def run(side: str, num_captions: int, num_rewrites: int) -> dict[str, float]:
    """One side in a process of its own, on one core."""
    pairs_of(num_captions)
    command = [sys.executable, __file__, "--side", side, "--captions", str(num_captions),
               "--rewrites", str(num_rewrites)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CLIPFLOW_CACHE": str(folder() / "cache"),
                                "MLFLOW_TRACKING_URI": f"sqlite:///{folder() / 'mlflow.db'}"}  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False,
                          preexec_fn=lambda: os.sched_setaffinity(0, {1}))  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ours(num_captions: int, num_rewrites: int) -> dict[str, float]:
    """The whole stage, with an empty cache."""
    shutil.rmtree(folder() / "cache", ignore_errors=True)
    params = Params.model_construct(
        **COMMON, generator=Instant(name="instant"), num_rewrites=num_rewrites
    )
    pairs = pairs_of(num_captions)
    os.chdir(folder())
    track.connect()  # imports MLflow and makes its database, once
    start = time.perf_counter()
    stage.run(params, pairs=pairs, rewrites=folder() / "rewrites")
    return measured(num_captions, start)


def peer(num_captions: int, num_rewrites: int) -> dict[str, float]:
    """The reference's loop around its model, once per source."""
    captions = Pairs(pairs_of(num_captions)).captions
    start = time.perf_counter()
    for source in prompts.SOURCES[:num_rewrites]:
        rows = [tuple(row[:2]) for row in prompts.meta_pairs(source)]
        written: list[str] = []
        for first in range(0, num_captions, BATCH):
            batch = []
            for caption in captions[first : first + BATCH]:
                lines = [f"{a} => {b}" for a, b in random.sample(rows, 3)]
                batch.append(
                    "\n\n".join(["write image captions differently,", *lines, f"{caption} =>"])
                )
            results = [text + complete(text.replace("\n\n", "\n")) for text in batch]
            written += [result.split("\n")[8].split("=>")[1].strip() for result in results]
            with (folder() / f"{source}.txt").open("w") as file:
                file.write("\n".join(written))
    return measured(num_captions, start)


def measured(num_captions: int, start: float) -> dict[str, float]:
    """Captions per second since `start`, and this process's peak memory."""
    seconds = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"captions_per_s": num_captions / seconds, "peak_mib": peak_mib}


def pairs_of(num_captions: int) -> Path:
    """A pairs artifact of that many different captions of 8 to 16 words; images are not looked at."""
    out = folder() / f"pairs-{num_captions}"
    if not out.exists():
        rng = random.Random(0)
        with manifest.complete_or_absent(out) as partial:
            writer = Writer(partial, samples_per_shard=10_000)
            for number in range(num_captions):
                words = rng.choices(WORDS, k=rng.randint(8, 16))
                writer.add(f"{number:016x}", b"none", f"{' '.join(words)} {number}", {})
            writer.close()
    return out


def folder() -> Path:
    """Where the benchmark keeps its files."""
    path = harness.OUT / "rewrite-overhead"
    path.mkdir(parents=True, exist_ok=True)
    return path


COMMON = {"seed": 0, "max_words": 60, "lost_facts": "flag", "agreement": None}
SIDES = {"ours": ours, "peer": peer}

if __name__ == "__main__":
    main()
