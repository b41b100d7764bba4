"""Ingest from a bad web server, killed with -9 at many moments, ends as if nothing had happened.

    make drill-ingest    which is    PYTHONPATH=tests python -m drills.ingest --kills 40

A real HTTP server on loopback has dead and slow links, the same ones each time. One process imports
everything and forks a child per attempt, which runs the real stage and is killed: by itself at the k-th
pass through one of `PLACES`, or from outside at some time. The last attempt is left alone. Afterwards pairs
and benchmarks must be those of a run that was never killed, byte by byte.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.harness import commit
from clipflow import params
from clipflow.artifacts import pairs as artifact
from clipflow.ingest import stage
from clipflow.ingest.params import Params
from clipflow.ingest.staging import OpenChunk, Staging
from drills.ending import end
from drills.killing import ANY_TIME, Place, forked
from fakes.artifacts import ROOT

OUT = ROOT / "artifacts" / "drills" / "ingest.json"
NUM_ROWS, SHARD = 400, 25
DEAD, SLOW, SLOW_S = 0.05, 0.01, 0.3
LONGEST_ATTEMPT_S = 1.5


def of_outcomes(path: Path, *_: Any) -> bool:
    return path.name.endswith(".outcomes.partial")


def of_bin(path: Path, *_: Any) -> bool:
    return path.name.endswith(".bin.partial")


PLACES: dict[str, Place] = {
    "plan: rows written": Place(Staging, "write_rows", "after", passes=10),
    "plan: before its end": Place(Staging, "planned"),
    "plan: after its end": Place(Staging, "planned", "after"),
    "chunk: opened": Place(Staging, "open", "after", passes=4),
    "chunk: an image came": Place(OpenChunk, "put", passes=60),
    "chunk: before its images are in place": Place(Path, "replace", only=of_bin, passes=3),
    "chunk: before its outcomes are in place": Place(Path, "replace", only=of_outcomes, passes=3),
    "chunk: done": Place(OpenChunk, "close", "after", passes=3),
    "shard: begun": Place(artifact.Writer, "begin_shard", "after", passes=16),
    "shard: an image written": Place(artifact.Writer, "add", "after", passes=200),
    "end: before the manifest": Place(artifact.Writer, "close"),
    "end: after the manifest": Place(artifact.Writer, "close", "after"),
    "end: before an output is in place": Place(Path, "rename", passes=2),
    "end: after an output is in place": Place(Path, "rename", "after", passes=2),
}


def main() -> None:
    """Kill, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name, serving() as url:
        folder = Path(name)
        os.environ["CLIPFLOW_SCRATCH"] = str(folder / "scratch")
        rows = (f"{url}/img/{n}.jpg\tpicture number {n}\n" for n in range(NUM_ROWS))
        (folder / "urls.tsv").write_text("".join(rows))
        section = ingest_params(folder / "urls.tsv")
        ingest(section, folder / "whole", folder, None)
        shutil.rmtree(folder / "scratch")
        by_place, lost = Counter[str](), set[str]()
        for number in tqdm(range(args.kills), desc="kills"):
            # In peace after a while, so that late places are reached as well as early ones.
            place = rng.choice([*PLACES, ANY_TIME])
            if ingest(section, folder / "out", folder, place, rng):
                by_place[place] += 1
            else:
                lost |= different(folder / "whole", folder / "out")
            if number % 8 == 7:
                shutil.rmtree(folder / "scratch", ignore_errors=True)
                shutil.rmtree(folder / "out", ignore_errors=True)
        ingest(section, folder / "out", folder, None)
        lost |= different(folder / "whole", folder / "out")
    end(
        {"drill": "ingest", "faults": by_place.total(), "lost": len(lost), "what": sorted(lost),
         "rows": NUM_ROWS, "by_place": dict(sorted(by_place.items())), "commit": commit(),
         "command": " ".join(["PYTHONPATH=tests python -m drills.ingest", *sys.argv[1:]])},
        args.out,
    )  # fmt: skip


def ingest(
    section: Params, out: Path, folder: Path, place: str | None, rng: random.Random | None = None
) -> bool:
    """One attempt in a child; whether it was killed."""

    def run() -> None:
        if place in PLACES:
            found = PLACES[place]
            found.arm(rng.randint(1, found.passes) if rng else 1)
        stage.run(section, pairs=out / "pairs", benchmarks=out / "benchmarks")

    after = rng.uniform(0.05, LONGEST_ATTEMPT_S) if rng and place == ANY_TIME else None
    status = forked("ingest", run, folder / "log", after)
    if status not in (0, -9):
        raise SystemExit((folder / "log").read_text()[-3000:])
    return status == -9


def different(one: Path, other: Path) -> set[str]:
    """The files that are not in both, byte by byte."""
    found = [
        {f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()}
        for root in (one, other)
    ]
    names = found[0].keys() | found[1].keys()
    return {name for name in names if found[0].get(name) != found[1].get(name)}


def ingest_params(table: Path) -> Params:
    """The real params, for this table and this server."""
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["ingest"] |= {"source": "urls", "data": str(table), "samples_per_shard": SHARD}
    urls = values["sources"]["urls"]
    urls["test_share"] = 0.1
    urls["web"] |= {"allow_loopback": True, "concurrency": 32, "per_host": 32, "max_retries": 0}
    return params.parse(params.select(values, "ingest"), "ingest")  # type: ignore[return-value]


@contextmanager
def serving() -> Iterator[str]:
    """The server's address; it ends with this process."""
    command = [
        sys.executable,
        "-m",
        "fakes.web",
        f"--dead={DEAD}",
        f"--slow={SLOW}",
        f"--slow-s={SLOW_S}",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT / "tests"
    ) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip().rstrip("/")
        finally:
            process.kill()


if __name__ == "__main__":
    main()
