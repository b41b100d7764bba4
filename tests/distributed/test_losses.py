"""Each loss on 1, 2 and 4 processes: values and gradients of the dense loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from clipflow.model import tiled
from clipflow.model.attraction import repulsion
from clipflow.model.consistency import cross_modal, in_modal
from clipflow.model.info_nce import info_nce
from clipflow.model.nt_xent import nt_xent
from clipflow.model.projection_head import BatchNorm
from clipflow.model.sigmoid import sigmoid_loss
from fakes import dense

NUM = 24
WEIGHTS = torch.linspace(0, 1.5, NUM)
Loss = Callable[..., Tensor]


def weighted(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE by this process's share of the weights, with smoothing, which they have a part in."""
    own = WEIGHTS.split(len(images))[dist.get_rank()]
    return info_nce(images, texts, scale, smoothing=0.1, weights=own)


LOSSES: dict[str, tuple[Loss, Loss, int]] = {
    "info_nce": (info_nce, dense.info_nce, 1),
    "smoothed": (partial(info_nce, smoothing=0.1), partial(dense.info_nce, smoothing=0.1), 1),
    "weighted": (weighted, partial(dense.info_nce, smoothing=0.1, weights=WEIGHTS), 1),
    "decoupled": (partial(info_nce, decoupled=True), partial(dense.info_nce, decoupled=True), 1),
    "sigmoid": (sigmoid_loss, dense.sigmoid, 2),
    "repulsion": (
        partial(repulsion, temperature=1.5),
        partial(dense.repulsion, temperature=1.5),
        0,
    ),
    "nt_xent": (partial(nt_xent, temperature=0.1), partial(dense.nt_xent, temperature=0.1), 0),
    "cross_modal": (cross_modal, dense.cross_modal, 0),
    "in_modal": (in_modal, dense.in_modal, 0),
}
"""Ours, by its usual formula, and of how many scalars beside images and texts."""


def whole(name: str) -> list[Tensor]:
    """The loss and its gradients, from the whole matrix."""
    _, loss, num_scalars = LOSSES[name]
    values = dense.batch(NUM)[: 2 + num_scalars]
    value = loss(*values)
    return [value, *torch.autograd.grad(value, values)]


def work(rank: int, world: int, folder: str) -> None:
    """One process: its rows' losses and gradients, averaged as DDP does, by several tiles."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    own = slice(rank * NUM // world, (rank + 1) * NUM // world)
    results = {}
    for name, (loss, _, num_scalars) in LOSSES.items():
        for elements in (1, 5 * NUM, 2**22):
            tiled.TILE_ELEMENTS = elements
            images, texts, *scalars = dense.batch(NUM)[: 2 + num_scalars]
            images, texts = (rows[own].detach().requires_grad_() for rows in (images, texts))
            value = loss(images, texts, *scalars)
            value.backward()
            mean = [value.detach(), *(scalar.grad for scalar in scalars)]
            for each in mean:
                dist.all_reduce(each)
                each /= world
            parts = mean[0], images.grad / world, texts.grad / world, *mean[1:]
            results[name, elements] = parts
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_equals_the_dense_loss_of_one_process(tmp_path: Path, world: int) -> None:
    mp.start_processes(work, (world, str(tmp_path)), nprocs=world, start_method="fork")
    by_rank = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for name, elements in by_rank[0]:
        losses, images, texts, *scalars = zip(*(r[name, elements] for r in by_rank), strict=True)
        ours = [losses[0], torch.cat(images), torch.cat(texts), *(each[0] for each in scalars)]
        for value, expected in zip(ours, whole(name), strict=True):
            torch.testing.assert_close(value, expected, atol=2e-6, rtol=1e-5, msg=name)


def normalised(rank: int, world: int, folder: str) -> None:
    """One process's rows through batch norm; the outputs, and gradients averaged as DDP does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    own = slice(rank * NUM // world, (rank + 1) * NUM // world)
    norm, (rows, weights, *_) = BatchNorm(8), dense.batch(NUM)
    mine = (3 * rows + 1)[own].detach().requires_grad_()
    out = norm(mine)
    (out * weights[own]).mean().backward()
    means = [norm.weight.grad, norm.bias.grad]
    for each in means:
        dist.all_reduce(each)
        each /= world
    torch.save((out.detach(), mine.grad / world, *means), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_batch_norm_is_that_of_the_whole_batch(tmp_path: Path, world: int) -> None:
    """PyTorch's own, of all rows in one process."""
    mp.start_processes(normalised, (world, str(tmp_path)), nprocs=world, start_method="fork")
    parts = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(world)), strict=True)
    outs, gradients, of_weight, of_bias = parts
    norm, (rows, weights, *_) = nn.BatchNorm1d(8), dense.batch(NUM)
    rows = (3 * rows + 1).detach().requires_grad_()
    out = norm(rows)
    (out * weights).mean().backward()
    ours = torch.cat(outs), torch.cat(gradients), of_weight[0], of_bias[0]
    theirs = out.detach(), rows.grad, norm.weight.grad, norm.bias.grad
    for value, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, expected, atol=2e-6, rtol=1e-5)
