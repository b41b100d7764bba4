"""Losses over all pairs of images and texts with memory linear in the batch, on one process or many.

The matrix of similarities is computed in tiles of rows, forward and again backward, and never kept. A loss
is a `Rule`: what it makes of the tiles. Both directions share each tile, and only the texts travel between
processes. Under autocast the products are computed in its type, sums and exponentials in float32.

Source: Cheng et al. 2024 (Inf-CL, arXiv:2410.17243), section 3.2, here in one pass for both directions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

TILE_ELEMENTS = 2**22
"""Similarities in a tile: 16 MiB in float32."""


@dataclass(frozen=True)
class Matrix:
    """Scaled similarities of this process's images, its rows, with the texts of all, its columns.

    Row i belongs to column `first + i`.
    """

    images: Float[Tensor, "local dim"]
    texts: Float[Tensor, "all dim"]
    scale: Float[Tensor, ""]

    @property
    def first(self) -> int:
        """The column of the first row."""
        return rank() * len(self.images)

    @property
    def own(self) -> slice:
        """The columns that belong to the rows."""
        return slice(self.first, self.first + len(self.images))

    def tiles(self) -> Iterator[tuple[slice, Float[Tensor, "rows all"]]]:
        """Some rows at a time; a caller deletes its tile, or it is still there beside the next one."""
        size = max(1, TILE_ELEMENTS // len(self.texts))
        for first in range(0, len(self.images), size):
            rows = slice(first, min(first + size, len(self.images)))
            yield rows, (self.images[rows] @ self.texts.T).to(self.scale.dtype).mul_(self.scale)

    def positives(self) -> Float[Tensor, " local"]:
        """The similarity of each row with its own column."""
        exact = self.scale.dtype
        return self.scale * (self.images.to(exact) * self.texts[self.own].to(exact)).sum(1)

    def mean(self) -> Float[Tensor, ""]:
        """The mean of all elements."""
        exact = self.scale.dtype
        return self.scale * (self.images.to(exact).mean(0) @ self.texts.to(exact).mean(0))

    def diagonal(self, tile: Float[Tensor, "rows all"], rows: slice) -> Float[Tensor, " rows"]:
        """A view of the tile's elements that belong together."""
        return tile.diagonal(self.first + rows.start)


class Rule(ABC):
    """A loss of a `Matrix`: its value, and its gradient tile by tile.

    One object serves one forward and its backward, and keeps what both need.
    """

    terms: ClassVar[int]
    """The loss is a sum over this process's matrix, divided by `terms` x its number of rows."""

    @abstractmethod
    def value(self, matrix: Matrix) -> Float[Tensor, ""]:
        """The loss of this process's rows; the mean over processes is the global batch's."""

    @abstractmethod
    def gradient(
        self, matrix: Matrix, tile: Float[Tensor, "rows all"], rows: slice
    ) -> Float[Tensor, "rows all"]:
        """The gradient to a tile's similarities of `terms` x rows x `value`, summed over all processes.

        The tile stays as it is. `scale`, products and processes are seen to: of a value that is the sum of
        squares divided by the number of rows, with one term, it is twice the tile.
        """


def tiled(
    rule: Rule,
    images: Float[Tensor, "local dim"],
    texts: Float[Tensor, "local dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """The rule's loss of this process's rows of the global batch.

    Row i of `images` belongs to row i of `texts`, and all processes have the same number of rows. They may
    be any vectors whose products the loss is of: views of images, or several vectors one after the other.
    The mean of all processes' values is the loss of the global batch, and so are the gradients after DDP
    has averaged them, if every process passes the same gradient backward. A `bias` is one that the rule
    adds to every similarity: it is given here for its gradient.
    """
    device = images.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    loss: Tensor = _Tiled.apply(rule, images, texts, scale, bias, product or images.dtype)
    return loss


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rule: Rule,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        product: torch.dtype,
    ) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            ctx.rule, ctx.types = rule, (images.dtype, texts.dtype)
            exact = torch.promote_types(images.dtype, torch.float32)
            matrix = Matrix(images.to(product), gather(texts.to(product)), scale.to(exact))
            ctx.save_for_backward(matrix.images, matrix.texts, matrix.scale)
            return rule.value(matrix)

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[None, Tensor, Tensor, Tensor, Tensor | None, None]:
        matrix, rule = Matrix(*ctx.saved_tensors), ctx.rule
        images, texts, scale = matrix.images, matrix.texts, matrix.scale
        of_images = torch.empty_like(images, dtype=scale.dtype)
        of_texts = torch.zeros_like(texts, dtype=scale.dtype)
        of_scale, of_bias = torch.zeros_like(scale), torch.zeros_like(scale)
        with torch.autocast(images.device.type, enabled=False):
            for rows, tile in matrix.tiles():
                weights = rule.gradient(matrix, tile, rows)
                of_scale += torch.linalg.vecdot(weights.flatten(), tile.flatten())
                del tile
                if ctx.needs_input_grad[4]:
                    of_bias += weights.sum()
                weights = weights.to(images.dtype)
                of_images[rows] = weights @ texts
                of_texts.add_(weights.T @ images[rows])
                del weights
            # The sum over processes of their losses is what DDP's average makes a mean of.
            each = gradient / (rule.terms * len(images))
            of_own_texts = _scatter(of_texts)
            of_images, of_own_texts = of_images.mul_(scale * each), of_own_texts.mul_(scale * each)
            return (
                None,
                of_images.to(ctx.types[0]),
                of_own_texts.to(ctx.types[1]),
                of_scale * each / scale,
                of_bias * each if ctx.needs_input_grad[4] else None,
                None,
            )


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _scatter(gradient.contiguous())


def gathered(rows: Float[Tensor, "local dim"]) -> Float[Tensor, "all dim"]:
    """As `gather`, with the gradient of the sum over processes of their losses."""
    everyone: Tensor = rows if _alone() else _Gathered.apply(rows)
    return everyone


def rank() -> int:
    """The number of this process; 0 where it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """Processes that share the batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _alone() -> bool:
    return num_processes() == 1


def gather(rows: Float[Tensor, "local dim"]) -> Float[Tensor, "all dim"]:
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


def sum_over_processes(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The sum, in every process."""
    if not _alone():
        dist.all_reduce(values)
    return values


def largest_over_processes(number: int, device: torch.device) -> int:
    """The largest of all processes' numbers, in every process."""
    if _alone():
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def log_sum_exp_over_processes(values: Float[Tensor, " all"]) -> Float[Tensor, " all"]:
    """The logarithm of the sum of exponentials, in every process."""
    if _alone():
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    sums = (values - largest).exp_()
    dist.all_reduce(sums)
    return sums.log_().add_(largest)
