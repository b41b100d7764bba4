"""The loss on 1, 2 and 4 processes: values and gradients of the dense loss of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional

from clipflow.model import info_nce as module
from clipflow.model.info_nce import info_nce

NUM, DIM = 24, 8


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images, texts and scale of the whole batch."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        functional.normalize(torch.randn(NUM, DIM, generator=generator), dim=1) for _ in range(2)
    )
    return images, texts, torch.tensor(14.3)


def dense() -> list[Tensor]:
    """The loss and its gradients, from the whole matrix."""
    images, texts, scale = (value.requires_grad_() for value in batch())
    logits, labels = scale * images @ texts.T, torch.arange(NUM)
    loss = functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
    return [loss / 2, *torch.autograd.grad(loss / 2, (images, texts, scale))]


def work(rank: int, world: int, folder: str) -> None:
    """One process: its rows' loss and gradients, averaged over processes as DDP does, by several tiles."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    own = slice(rank * NUM // world, (rank + 1) * NUM // world)
    results = []
    for elements in (1, 5 * NUM, 2**22):
        module.TILE_ELEMENTS = elements
        images, texts, scale = batch()
        images, texts = (rows[own].clone().requires_grad_() for rows in (images, texts))
        loss = info_nce(images, texts, scale.requires_grad_())
        loss.backward()
        mean = [loss.detach(), scale.grad]
        for value in mean:
            dist.all_reduce(value)
            value /= world
        results.append([mean[0], images.grad / world, texts.grad / world, mean[1]])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_equals_the_dense_loss_of_one_process(tmp_path: Path, world: int) -> None:
    mp.start_processes(work, (world, str(tmp_path)), nprocs=world, start_method="fork")
    by_rank = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for results in zip(*by_rank, strict=True):
        losses, images, texts, scales = zip(*results, strict=True)
        ours = [losses[0], torch.cat(images), torch.cat(texts), scales[0]]
        for value, expected in zip(ours, dense(), strict=True):
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
