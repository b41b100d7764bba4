"""A batch's texts, in groups of similar length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

MAX_GROUPS = 4
MIN_GROUP_SIZE = 16


class Texts(NamedTuple):
    """Token ids of `batch` x `texts` texts. Grouping by length leaves out padding and nothing else."""

    groups: tuple[Int[Tensor, "size length"], ...]
    """Each group's ids, cut to its longest text; together they hold every text once."""
    place: Int[Tensor, "batch texts"]
    """Where each text stands among the rows of all groups, one after the other."""
    num_tokens: int
    """Tokens of all texts without padding."""

    def to(self, device: torch.device) -> Texts:
        """The texts on a device."""
        groups = tuple(group.to(device, non_blocking=True) for group in self.groups)
        return Texts(groups, self.place.to(device, non_blocking=True), self.num_tokens)

    def repeated(self) -> Bool[Tensor, "batch texts"]:
        """Which texts are their pair's first text again, as the first one itself."""
        length = max(group.shape[1] for group in self.groups)
        padded = [functional.pad(group, (0, length - group.shape[1])) for group in self.groups]
        ids = torch.cat(padded)[self.place]
        return (ids == ids[:, :1]).all(2)


def grouped(tokens: Int[Tensor, "batch texts context"], *, trims: bool) -> Texts:
    """Texts sorted by length into up to 4 groups of 16 or more, each cut to its longest text.

    Whole and in their order unless `trims`: whether the tower is blind to what comes after the
    end-of-text token, the one with the largest id.
    """
    batch, texts, _ = tokens.shape
    rows = tokens.flatten(0, 1)
    if not trims:
        return Texts((rows,), torch.arange(len(rows)).view(batch, texts), rows.numel())
    lengths = rows.argmax(dim=1) + 1
    order = lengths.argsort(stable=True)
    num_groups = min(MAX_GROUPS, max(1, len(rows) // MIN_GROUP_SIZE))
    groups = tuple(
        rows[members, : int(lengths[members].max())] for members in order.tensor_split(num_groups)
    )
    return Texts(groups, order.argsort().view(batch, texts), int(lengths.sum()))
