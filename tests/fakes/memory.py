"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

FORK = multiprocessing.get_context("fork")


def peak_mib(prepare: Callable[[], Callable[[], object]]) -> float:
    """Resident memory that what `prepare` returns needs above it, in a process of its own."""
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_measure, args=(prepare, send))
    process.start()
    peak: float = receive.recv()
    process.join()
    return peak


def _measure(prepare: Callable[[], Callable[[], object]], send: Connection) -> None:
    torch.set_num_threads(1)
    work = prepare()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = _resident("VmHWM")
    work()
    send.send(_resident("VmHWM") - before)


def _resident(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024
