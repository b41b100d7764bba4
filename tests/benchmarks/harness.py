"""What benchmarks share: alternating runs, and the table and JSON that a README row comes from.

`artifacts/bench/NAME.json` holds a list of measurements: `{"name", "ours", "peer", "peer_name", "unit",
"ratio", "runs", "command", "commit", "machine"}`. A ratio above 1 means that we are better: ours over
peer for throughput, peer over ours for time and memory.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

ROOT = Path(__file__).parents[2]
OUT = ROOT / "artifacts" / "bench"


@dataclass
class Comparison:
    """The same quantity of two sides, measured in alternation."""

    name: str
    ours: list[float]
    peer: list[float]
    peer_name: str
    unit: str
    better: Literal["more", "less"]
    """Whether more of it is better, as of throughput, or less, as of time and memory."""

    @property
    def ratio(self) -> float:
        """Median over runs; above 1 means that we are better."""
        ours, peer = median(self.ours), median(self.peer)
        return ours / peer if self.better == "more" else peer / ours


def alternate(
    ours: Callable[[], float], peer: Callable[[], float], runs: int
) -> tuple[list[float], list[float]]:
    """A B A B ...: each side's measurements, so that a noisy machine disturbs both alike."""
    pairs = [(ours(), peer()) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def report(name: str, comparisons: list[Comparison]) -> None:
    """Print a table and write artifacts/bench/<name>.json."""
    rows = [
        {
            "name": c.name,
            "ours": median(c.ours),
            "peer": median(c.peer),
            "peer_name": c.peer_name,
            "unit": c.unit,
            "ratio": c.ratio,
            "runs": {"ours": c.ours, "peer": c.peer},
            "command": " ".join(["python", *sys.argv]),
            "commit": commit(),
            "machine": machine(),
        }
        for c in comparisons
    ]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(f"| {name} | clipflow | peer | unit | ratio | lowest, highest of its runs |")
    print("|---|---|---|---|---|---|")
    for c in comparisons:
        each = [a / b if c.better == "more" else b / a for a, b in zip(c.ours, c.peer, strict=True)]
        print(
            f"| {c.name} | {median(c.ours):.4g} | {median(c.peer):.4g} ({c.peer_name}) | {c.unit} "
            f"| {c.ratio:.2f} | {min(each):.2f}, {max(each):.2f} |"
        )


def commit() -> str:
    """The commit of this checkout, with a + if it has changes."""
    show = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    """Processor and cores, in words."""
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return f"{os.cpu_count()} x {names[0] if names else platform.processor()}, {platform.system()}"
