"""The contrastive loss, forward and backward: time and peak memory against open_clip's ClipLoss.

    make bench-loss-memory        which is        python tests/benchmarks/loss_memory.py

Memory is the peak of resident memory (of allocated memory on CUDA) above what the features take, each in
a process of its own; gradients count. At the large batch open_clip's is not run: it would take about
4.3 x batch^2 x 4 bytes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

import harness

DIM = 512
SMALL, LARGE = 8192, 65536


def main() -> None:
    """Measure, or with --measure be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--large", type=int, default=LARGE, help=f"the large batch (default {LARGE})"
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(*measure(args.measure[0], int(args.measure[1])))
        return
    both = {
        side: [in_a_process(side, SMALL, args.threads) for _ in range(args.runs)]
        for side in ("clipflow", "open_clip")
    }
    large = [in_a_process("clipflow", args.large, args.threads)]
    estimate = [4.3 * args.large**2 * 4 / 2**30]
    seconds, memory = (
        {side: [run[n] for run in runs] for side, runs in both.items()} for n in (0, 1)
    )
    harness.report(
        "loss-memory",
        [
            harness.Comparison(f"time, batch {SMALL}", seconds["clipflow"], seconds["open_clip"],
                               "open_clip ClipLoss", "s", "less"),
            harness.Comparison(f"memory, batch {SMALL}", memory["clipflow"], memory["open_clip"],
                               "open_clip ClipLoss", "GiB", "less"),
            harness.Comparison(f"memory, batch {args.large}", [large[0][1]], estimate,
                               "open_clip ClipLoss, estimated", "GiB", "less"),
        ],
    )  # fmt: skip
    print(f"batch {args.large}: {large[0][0]:.1f} s, {large[0][1]:.2f} GiB above the features")


def in_a_process(side: str, batch: int, threads: int) -> tuple[float, float]:
    """Seconds and GiB."""
    command = [sys.executable, __file__, "--measure", side, str(batch)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    seconds, gib = done.stdout.split()
    return float(seconds), float(gib)


def measure(side: str, batch: int) -> tuple[float, float]:
    """Forward and backward once, after a small one that loads what is needed."""
    import torch
    from open_clip.loss import ClipLoss
    from torch.nn import functional

    from clipflow.model.info_nce import info_nce

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loss = {"clipflow": info_nce, "open_clip": ClipLoss()}[side]

    def rows(num: int) -> list[torch.Tensor]:
        unit = [functional.normalize(torch.randn(num, DIM, device=device), dim=1) for _ in range(2)]
        return [v.requires_grad_() for v in (*unit, torch.tensor(14.3, device=device))]

    loss(*rows(64)).backward()
    values = rows(batch)
    before = allocated(device)
    start = time.perf_counter()
    loss(*values).backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, (peak(device) - before) / 2**30


def allocated(device: str) -> int:
    """Bytes now; the peak counts from here on."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")
    return status("VmRSS")


def peak(device: str) -> int:
    """The most bytes since `allocated`."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))


if __name__ == "__main__":
    main()
