"""Prototypes of an episode's pairs: a teacher's clusters, of the other modality or its own (ProtoCLIP)."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from clipflow.model.clustering import means
from clipflow.model.tiled import gather, rank

NO_ROW = -1


class Prototypes(nn.Module):
    """What a student of one modality learns from a teacher's clusters: the other modality's, or others.

    Everything is in buffers, so that it is saved with the weights. Before the first episode no pair is
    known.
    """

    rows: Int[Tensor, " episode"]
    """The pairs of the episode, ascending; before them NO_ROW where it has fewer."""
    labels: Int[Tensor, " episode"]
    """The teacher's cluster of each."""
    centroids: Float[Tensor, "clusters dim"]
    """The teacher's means of its clusters; 0 if its embeddings weren't given."""
    prototypes: Float[Tensor, "clusters dim"]
    """What the student is compared with."""
    used: Tensor
    """Whether a cluster has members."""

    def __init__(self, episode: int, clusters: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.full((episode,), NO_ROW))
        self.register_buffer("labels", torch.zeros(episode, dtype=torch.long))
        self.register_buffer("centroids", torch.zeros(clusters, dim))
        self.register_buffer("prototypes", torch.zeros(clusters, dim))
        self.register_buffer("used", torch.ones(clusters, dtype=torch.bool))

    def renew(
        self,
        rows: Int[Tensor, " num"],
        labels: Int[Tensor, " num"],
        student: Float[Tensor, "num dim"],
        teacher: Float[Tensor, "num dim"] | None = None,
        *,
        back_translation: bool = True,
    ) -> None:
        """Begin an episode. `rows` ascend; the first process computes, all get the result.

        With `back_translation` a prototype is the mean of the student's embeddings of a cluster's pairs,
        so that it lies where the student's embeddings lie; without, it is the teacher's own.
        """
        num, clusters = len(rows), len(self.centroids)
        if rank() == 0:
            self.rows.fill_(NO_ROW)[-num:] = rows
            self.labels.zero_()[-num:] = labels
            if teacher is not None:
                self.centroids.copy_(means(teacher, labels, clusters))
            self.prototypes.copy_(
                means(student, labels, clusters) if back_translation else self.centroids
            )
            self.used.copy_(labels.bincount(minlength=clusters) > 0)
        if dist.is_initialized():
            for buffer in self.buffers():
                dist.broadcast(buffer, 0)

    def loss(
        self,
        student: Float[Tensor, "batch dim"],
        rows: Int[Tensor, " batch"],
        scale: Float[Tensor, ""],
        target_temperature: float | None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the student's similarities to the prototypes; pairs of no episode have none.

        The target of a pair is the softmax, at `target_temperature`, of the similarities of its centroid to
        all centroids; None: its cluster alone.
        """
        places = torch.searchsorted(self.rows, rows).clamp(max=len(self.rows) - 1)
        known = (self.rows[places] == rows) & (rows != NO_ROW)
        least = torch.finfo(torch.float32).min
        targets = self.labels[places]
        # The temperature is too low for bfloat16.
        with torch.autocast(student.device.type, enabled=False):
            if target_temperature is not None:
                centroids = functional.normalize(self.centroids, dim=1)
                alike = centroids[targets] @ centroids.T / target_temperature
                targets = alike.masked_fill(~self.used, least).softmax(1)
            logits = scale * student.float() @ functional.normalize(self.prototypes, dim=1).T
        each = functional.cross_entropy(
            logits.masked_fill(~self.used, least), targets, reduction="none"
        )
        return (each * known).mean()


def in_one_order(
    local: Float[Tensor, "steps share width"],
) -> Float[Tensor, "all width"]:
    """The rows of all processes and steps in the order in which one process would have them."""
    steps, share, width = local.shape
    everyone = gather(local.flatten(0, 1))
    return everyone.view(-1, steps, share, width).transpose(0, 1).reshape(-1, width)


def once_each(rows: Int[Tensor, " num"]) -> tuple[Int[Tensor, " unique"], Int[Tensor, " unique"]]:
    """The different rows, ascending, and where each stands first."""
    unique, first = np.unique(rows.cpu().numpy(), return_index=True)
    return torch.from_numpy(unique).to(rows.device), torch.from_numpy(first).to(rows.device)
