"""Gradient caching keeps one chunk's activations, however many chunks the batch has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.texts import Texts
from clipflow.model.towers import Towers
from fakes.memory import peak_mib


def step(batch_size: int, chunk_size: int | None) -> Callable[[], object]:
    """One step, with the model and its gradients there."""
    objective = Contrastive(Towers("ViT-S-32-alt", 0.07, chunk_size=chunk_size))
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter)
    images = torch.randint(0, 255, (batch_size, 224, 224, 3), dtype=torch.uint8)
    texts = Texts((torch.randint(1, 400, (batch_size, 16)),), torch.arange(batch_size)[:, None], 16)
    return lambda: objective(Batch(images, texts))["loss"].backward()


def test_memory_is_that_of_a_chunk() -> None:
    two, six, whole = (peak_mib(partial(step, *sizes)) for sizes in ((16, 8), (48, 8), (48, None)))
    assert six < 1.3 * two, (two, six, whole)
    assert whole > 2 * six, (two, six, whole)
