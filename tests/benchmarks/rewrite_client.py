"""Requests per second that the rewrite stage gets out of a server, against what the server can do at most.

    make bench-rewrite-client       which is        python tests/benchmarks/rewrite_client.py

The server is a fake in a process of its own: each request takes 200 ms, 64 at a time, so that 320 a second
is the most that any client can get. Ours is the whole stage with `concurrency: 64`: prompts, requests,
parsing, checks, cache and parquet, from reading the pairs to the finished artifact. Ratio: ours over 320/s.
Also the processor time of the stage's process per request, against the 1 ms that leaves a core free.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness

from clipflow import params as params_file
from clipflow import track
from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Writer
from clipflow.rewrite import stage
from clipflow.rewrite.params import Params

LATENCY_S, CAPACITY = 0.2, 64
PER_SHARD = 1000
TARGET_MS = 1.0


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=8000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    params = client_params()
    num_requests = args.captions * params.num_rewrites
    rates: list[float] = []
    milliseconds: list[float] = []
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "key",
                       "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}  # fmt: skip
        os.chdir(folder)
        track.connect()  # makes the database, once
        pairs = make_pairs(Path(folder) / "pairs", args.captions)
        for run in range(args.runs):
            os.environ["CLIPFLOW_CACHE"] = f"{folder}/cache-{run}"
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            stage.run(params, pairs=pairs, rewrites=Path(folder) / f"rewrites-{run}")
            rates.append(num_requests / (time.perf_counter() - start_s))
            milliseconds.append(1e3 * (time.process_time() - start_cpu_s) / num_requests)
    best = CAPACITY / LATENCY_S
    name = f"{num_requests} requests of {LATENCY_S:g} s, {CAPACITY} at once"
    harness.report(
        "rewrite-client",
        [
            harness.Comparison(
                name, rates, [best] * args.runs, "the server's capacity", "requests/s", "more"
            ),
            harness.Comparison(
                "processor time",
                milliseconds,
                [TARGET_MS] * args.runs,
                "target",
                "ms/request",
                "less",
            ),
        ],
    )


def client_params() -> Params:
    """The real params with the server's generator."""
    values = params_file.read(harness.ROOT / "params.yaml")
    values["rewrite"]["generator"] = "server"
    values["generators"]["server"]["concurrency"] = CAPACITY
    params: Params = params_file.parse(params_file.select(values, "rewrite"), "rewrite")
    return params


def make_pairs(folder: Path, num_captions: int) -> Path:
    """Pairs with different captions of a dozen words."""
    with manifest.complete_or_absent(folder) as partial:
        writer = Writer(partial, samples_per_shard=PER_SHARD)
        for i in range(num_captions):
            caption = f"a photo number {i} of a brown dog that runs along the beach at sunset"
            writer.add(f"{i:08}", b"not decoded here", caption, {})
        writer.close()
    return folder


@contextmanager
def serving() -> Iterator[str]:
    """The fake server's URL."""
    command = [sys.executable, "-m", "fakes.llm_server",
               f"--latency-s={LATENCY_S}", f"--capacity={CAPACITY}"]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(harness.ROOT / "tests")}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
