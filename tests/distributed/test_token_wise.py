"""Late interaction on 1, 2 and 4 processes: value and gradients of the dense loss of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from clipflow.model import tiled
from clipflow.model.token_wise import token_wise_info_nce
from fakes import dense

NUM = 8
SCALE = 14.3


def work(rank: int, world: int, folder: str) -> None:
    """One process: its rows, its texts cut to the longest of them, gradients averaged as DDP does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    tiled.TILE_ELEMENTS = 100
    own = slice(rank * NUM // world, (rank + 1) * NUM // world)
    images, texts = (tokens[own].detach() for tokens in dense.tokens(NUM))
    longest = int((texts != 0).any(2).sum(1).max())
    values = images, texts[:, :longest], torch.tensor(SCALE)
    images, words, scale = (value.requires_grad_() for value in values)
    loss = token_wise_info_nce(images, words, scale)
    loss.backward()
    mean = torch.stack([loss.detach(), scale.grad])
    dist.all_reduce(mean)
    of_texts = torch.zeros_like(texts)
    of_texts[:, :longest] = words.grad
    torch.save([mean / world, images.grad / world, of_texts / world], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_equals_the_dense_loss_of_one_process(tmp_path: Path, world: int) -> None:
    mp.start_processes(work, (world, str(tmp_path)), nprocs=world, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    means, images, texts = zip(*parts, strict=True)
    values = [*dense.tokens(NUM), torch.tensor(SCALE, requires_grad=True)]
    loss = dense.token_wise(*values)
    of_images, of_texts, of_scale = torch.autograd.grad(loss, values)
    torch.testing.assert_close(means[0], torch.stack([loss.detach(), of_scale]))
    torch.testing.assert_close(torch.cat(images), of_images, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(torch.cat(texts), of_texts, atol=2e-6, rtol=1e-5)
