"""Steps and samples that went wrong: counted, named, and the end of a run that is beyond help."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from clipflow.errors import ClipflowError
from clipflow.model.batch import Batch
from clipflow.pretrain.params import Params
from clipflow.pretrain.resume import State
from clipflow.pretrain.samples import Samples

logger = logging.getLogger(__name__)

MAX_NAMED = 5
"""Keys named in a message."""


class Watch:
    """Looks at each step's numbers a step later, when the device has them ready."""

    def __init__(self, params: Params, state: State, samples: Samples) -> None:
        self.params, self.state, self.samples = params, state, samples
        self._unseen: tuple[int, Sequence[int], Reading] | None = None

    def see(
        self,
        batch: Batch,
        skipped: Float[Tensor, ""],
        loss: Float[Tensor, ""],
        norm: Float[Tensor, ""],
    ) -> None:
        """Take note of a step, and catch up on the one before.

        Raises ClipflowError if more than `max_skipped_steps` in a row were skipped.
        """
        reading = Reading(torch.stack([skipped, loss.detach().float(), norm.float()]))
        self.catch_up()
        self._unseen = self.state.step, batch.rows, reading
        for key in batch.damaged:
            self.state.num_damaged += 1
            if self.state.num_damaged <= MAX_NAMED:
                logger.warning("image of '%s' can't be read: another takes its place", key)

    def catch_up(self) -> None:
        """Look at the last step noted, waiting for its numbers. Raises as `see` does."""
        if self._unseen is None:
            return
        step, rows, reading = self._unseen
        self._unseen = None
        skipped, loss, norm = reading.numbers()
        if not skipped:
            self.state.num_skipped_in_a_row = 0
            return
        self.state.num_skipped_in_a_row += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            keys = ", ".join(self.samples.key(row) for row in rows[:MAX_NAMED])
            logger.warning(
                "step %d skipped: loss %g, gradient norm %g; its %d samples begin with %s",
                step, loss, norm, len(rows), keys,
            )  # fmt: skip
        if self.state.num_skipped_in_a_row > self.params.max_skipped_steps:
            raise ClipflowError(
                f"step {step}: {self.state.num_skipped_in_a_row} steps in a row had a loss or gradient that"
                " is not finite (pretrain.max_skipped_steps); lower pretrain.lr, raise"
                " pretrain.warmup_steps, set pretrain.clip_grad_norm or pretrain.precision: float32"
            )


class Reading:
    """A few numbers on their way from the device to the host."""

    def __init__(self, values: Float[Tensor, " n"]) -> None:
        self._values, self._arrived = values, None
        if values.is_cuda:
            self._values = torch.empty(len(values), pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def numbers(self) -> list[float]:
        """The numbers, as soon as they are there."""
        if self._arrived:
            self._arrived.synchronize()
        return [float(value) for value in self._values]
