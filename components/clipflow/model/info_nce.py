"""The symmetric contrastive loss with memory linear in the batch, on one process or many.

The matrix of similarities is computed in tiles of rows, forward and again backward, and never kept. Both
directions share each tile, so that the whole takes four products of the matrix's size where the usual
formulation takes six, and only the texts travel between processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

TILE_ELEMENTS = 2**22
"""Similarities in a tile: 16 MiB in float32."""


def info_nce(
    images: Float[Tensor, "local dim"], texts: Float[Tensor, "local dim"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of this process's rows of the global batch.

    Row i of `images` belongs to row i of `texts`; both have unit length, and all processes have the same
    number of rows. The mean of all processes' values is the loss of the global batch, and so are the
    gradients after DDP has averaged them, if every process passes the same gradient backward. Under
    autocast the products are computed in its type, sums and exponentials in float32.

    Source: CLIP (Radford et al. 2021), figure 3; LaCLIP, equations 1 and 2. The loss by tiles: Cheng et
    al. 2024 (Inf-CL, arXiv:2410.17243), section 3.2, here in one pass for both directions.
    """
    device = images.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    loss: Tensor = _InfoNce.apply(images, texts, scale, product or images.dtype)
    return loss


class _InfoNce(torch.autograd.Function):
    """Rows of the similarity matrix are this process's images, columns the texts of all."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, product: torch.dtype
    ) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            ctx.types = images.dtype, texts.dtype
            exact = torch.promote_types(images.dtype, torch.float32)
            images, columns, scale = images.to(product), _gather(texts.to(product)), scale.to(exact)
            own = slice(_rank() * len(images), (_rank() + 1) * len(images))
            row_sums = torch.empty(len(images), dtype=exact, device=images.device)
            column_sums = torch.full((len(columns),), -torch.inf, dtype=exact, device=images.device)
            for rows in _tiles(len(images), len(columns)):
                tile = _similarities(images[rows], columns, scale)
                row_sums[rows] = tile.logsumexp(1)
                column_sums = torch.logaddexp(column_sums, tile.logsumexp(0))
                del tile  # or it is still there beside the next one
            column_sums = _log_sum_exp_over_processes(column_sums)
            positive = scale * (images.to(exact) * columns[own].to(exact)).sum(1)
            ctx.save_for_backward(images, columns, scale, row_sums, column_sums)
            return (row_sums + column_sums[own] - 2 * positive).mean() / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        images, columns, scale, row_sums, column_sums = ctx.saved_tensors
        exact, first = row_sums.dtype, _rank() * len(images)
        of_images = torch.empty_like(images, dtype=exact)
        of_columns = torch.zeros_like(columns, dtype=exact)
        of_scale = torch.zeros_like(scale)
        with torch.autocast(images.device.type, enabled=False):
            for rows in _tiles(len(images), len(columns)):
                tile = _similarities(images[rows], columns, scale)
                weights = (tile - row_sums[rows, None]).exp_()
                weights += (tile - column_sums).exp_()
                weights.diagonal(first + rows.start).sub_(2)
                of_scale += torch.linalg.vecdot(weights.flatten(), tile.flatten())
                del tile
                weights = weights.to(images.dtype)
                of_images[rows] = weights @ columns
                of_columns.add_(weights.T @ images[rows])
                del weights
            # The sum over processes of their losses is what DDP's average makes a mean of.
            each = gradient / (2 * len(images))
            of_texts = _scatter(of_columns)
            of_images, of_texts = of_images.mul_(scale * each), of_texts.mul_(scale * each)
            return (
                of_images.to(ctx.types[0]),
                of_texts.to(ctx.types[1]),
                of_scale * each / scale,
                None,
            )


def _tiles(num_rows: int, num_columns: int) -> list[slice]:
    size = max(1, TILE_ELEMENTS // num_columns)
    return [slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size)]


def _similarities(
    images: Float[Tensor, "rows dim"], texts: Float[Tensor, "all dim"], scale: Float[Tensor, ""]
) -> Float[Tensor, "rows all"]:
    return (images @ texts.T).to(scale.dtype).mul_(scale)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def _gather(rows: Float[Tensor, "local dim"]) -> Float[Tensor, "all dim"]:
    """The rows of all processes, in the order of their ranks."""
    if _alone():
        return rows
    everyone = rows.new_empty(dist.get_world_size() * len(rows), rows.shape[1])
    dist.all_gather_into_tensor(everyone, rows.contiguous())
    return everyone


def _scatter(everyone: Float[Tensor, "all dim"]) -> Float[Tensor, "local dim"]:
    """The sum over processes of this process's rows."""
    if _alone():
        return everyone
    rows = everyone.new_empty(len(everyone) // dist.get_world_size(), everyone.shape[1])
    dist.reduce_scatter_tensor(rows, everyone)
    return rows


def _log_sum_exp_over_processes(values: Float[Tensor, " all"]) -> Float[Tensor, " all"]:
    if _alone():
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    sums = (values - largest).exp_()
    dist.all_reduce(sums)
    return sums.log_().add_(largest)
