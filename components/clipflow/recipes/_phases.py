"""Phases: training as an ordered list of parts, each with its budget of tokens and its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from clipflow.catalogue import Section
from clipflow.model.shortening import Shortening


class Phase(NamedTuple):
    """So many steps, and what the towers see in them."""

    steps: int
    """Optimizer steps."""
    warmup_steps: int
    """Steps of linear warm-up at its beginning; after them `pretrain.schedule` runs to the phase's end."""
    lr_factor: float = 1.0
    """Factor on every learning rate of the phase."""
    patch_dropout: float = 0.0
    """Share of image patches that are left out, drawn anew for each image in each epoch."""
    image_side: float = 1.0
    """Side of the images, as a share of the image tower's."""
    text_tokens: int | None = None
    """Most tokens of a text, with its marks of start and end; None: what the text tower takes."""
    shortening: Shortening = "truncate"
    """Which words of a longer text are kept."""


class Tuning(Section):
    """A short phase on full images and texts, after a long one on fewer tokens."""

    share: float = Field(ge=0, lt=1)
    """Share of `pretrain.steps`, of which it is a part; at least one step, unless 0."""
    lr_factor: float = Field(gt=0)
    """Factor on `pretrain.lr` and `pretrain.lr_min`."""
    warmup_share: float = Field(ge=0, le=1)
    """Share of its own steps that warm up."""

    def after(self, main: Phase) -> list[Phase]:
        """The main phase, shortened so that both together have its steps, and the tuning."""
        steps = min(max(1, round(self.share * main.steps)), main.steps - 1) if self.share else 0
        if not steps:
            return [main]
        tuning = Phase(steps, round(self.warmup_share * steps), self.lr_factor)
        return [main._replace(steps=main.steps - steps), tuning]


def at(phases: Sequence[Phase], step: int) -> tuple[int, int, Phase]:
    """The number of the phase that a step belongs to, counted from 0, the step within it, and the phase.

    What comes after the last step belongs to the last phase.
    """
    for number, phase in enumerate(phases[:-1]):
        if step < phase.steps:
            return number, step, phase
        step -= phase.steps
    return len(phases) - 1, step, phases[-1]
