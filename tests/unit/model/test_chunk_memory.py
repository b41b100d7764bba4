"""Gradient caching keeps one chunk's activations, however many chunks the batch has."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import torch

from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.texts import Texts
from clipflow.model.towers import Towers

FORK = multiprocessing.get_context("fork")


def peak_mib(batch_size: int, chunk_size: int | None) -> float:
    """Resident memory that a step needs above the model's, in a process of its own."""
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_step, args=(batch_size, chunk_size, send))
    process.start()
    peak: float = receive.recv()
    process.join()
    return peak


def _step(
    batch_size: int, chunk_size: int | None, send: multiprocessing.connection.Connection
) -> None:
    torch.set_num_threads(1)
    objective = Contrastive(Towers("ViT-S-32-alt", 0.07, chunk_size=chunk_size))
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter)
    images = torch.randint(0, 255, (batch_size, 224, 224, 3), dtype=torch.uint8)
    texts = Texts((torch.randint(1, 400, (batch_size, 16)),), torch.arange(batch_size)[:, None], 16)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = _resident("VmHWM")
    objective(Batch(images, texts))["loss"].backward()
    send.send(_resident("VmHWM") - before)


def _resident(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_memory_is_that_of_a_chunk() -> None:
    two, six, whole = peak_mib(16, 8), peak_mib(48, 8), peak_mib(48, None)
    assert six < 1.3 * two, (two, six, whole)
    assert whole > 2 * six, (two, six, whole)
