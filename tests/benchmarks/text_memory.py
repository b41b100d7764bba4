"""A million captions with four rewrites each, read at random: memory of a process, against Python lists.

    make bench-text-memory        which is        python tests/benchmarks/text_memory.py

LaCLIP's loader holds every text in Python lists (its `CsvDatasetAugCap`); clipflow maps a file. Each side
is a process of its own that reads 200,000 rows at random. Memory is anonymous resident memory: pages of a
mapped file are shared between processes and given back when others need them.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import pyarrow as pa

from clipflow.pretrain.samples import TABLE, Samples

READS = 200_000
SHARD = 10_000


class Shards:
    """Stands in for the pairs, of which only the shards' names are read."""

    def __init__(self, num: int) -> None:
        self.shards = [Path(f"{n:05d}.tar") for n in range(num)]


def main() -> None:
    """Write the texts, then measure both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(*measure(args.measure[0], Path(args.measure[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.arrow"
        write(file, args.rows)
        ours, peer = ([in_a_process(side, file)] for side in ("clipflow", "lists"))
    harness.report(
        "text-memory",
        [
            harness.Comparison(f"{name}, {args.rows} rows of 5 texts", [ours[0][n]], [peer[0][n]],
                               "Python lists", unit, better)
            for n, (name, unit, better) in enumerate(
                [("anonymous memory", "MiB", "less"), ("random reads", "rows/s", "more")]
            )
        ],
    )  # fmt: skip


def write(file: Path, num: int) -> None:
    """Random texts of 55 characters on average."""
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))) for _ in range(5000)
    ]
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, TABLE) as writer:
        for first in range(0, num, SHARD):
            texts = [" ".join(rng.choices(words, k=9)) for _ in range(5 * SHARD)]
            columns = [
                [f"{first + n:012d}" for n in range(SHARD)], texts[:SHARD], [0] * SHARD, [0] * SHARD,
                [texts[SHARD + 4 * n : SHARD + 4 * n + 4] for n in range(SHARD)],
            ]  # fmt: skip
            arrays = [pa.array(c, t) for c, t in zip(columns, TABLE.types, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=TABLE))


def in_a_process(side: str, file: Path) -> tuple[float, float]:
    """MiB of anonymous memory, and rows read per second."""
    command = [sys.executable, __file__, "--measure", side, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mib, rate = done.stdout.split()
    return float(mib), float(rate)


def measure(side: str, file: Path) -> tuple[float, float]:
    """What a side's texts take beyond what the imports took."""
    before = anonymous()
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    num = reader.num_record_batches * SHARD
    if side == "clipflow":
        texts = Samples(Shards(reader.num_record_batches), file).texts  # type: ignore[arg-type]
    else:
        captions: list[str] = []
        rewrites: list[list[str]] = []
        for n in range(reader.num_record_batches):
            captions += reader.get_batch(n)["caption"].to_pylist()
            rewrites += reader.get_batch(n)["rewrites"].to_pylist()
        texts = lambda row: (captions[row], rewrites[row])  # noqa: E731
    rows = random.Random(1).choices(range(num), k=READS)
    start = time.perf_counter()
    for row in rows:
        texts(row)
    seconds = time.perf_counter() - start
    return anonymous() - before, READS / seconds


def anonymous() -> float:
    """Anonymous resident memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


if __name__ == "__main__":
    main()
