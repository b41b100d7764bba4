"""Recipes: pre-training methods. One file per method; the file's name is its name.

A recipe's fields are its keys under `recipes:` in params.yaml. Its methods are the ways in which
methods differ: what is minimised, in which phases, which views of its image a pair shows besides, and which
texts where that is part of the method. Every other recipe takes any text policy, by `pretrain.texts`.
"""

from __future__ import annotations

import inspect
import random
import re
import sys
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from clipflow.catalogue import Catalogue, Choice
from clipflow.model.shortening import Shortening
from clipflow.recipes._phases import Phase, Tuning, at
from clipflow.recipes._texts import TextPolicy, shown

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8
    from PIL import Image
    from torch import nn

    from clipflow.model.towers import Towers

__all__ = [
    "CATALOGUE",
    "Phase",
    "Recipe",
    "Shortening",
    "Status",
    "TextPolicy",
    "Tuning",
    "at",
    "shown",
    "table",
]


Status = Literal["mechanism-verified", "toy-gain", "paper-scale"]


class Recipe(Choice):
    """One pre-training method."""

    status: ClassVar[Status]
    """How far it is shown to work: its mechanism, by tests; a gain over a named control with paired seeds
    on the embedded data; a gain at the size of a paper."""
    num_views: ClassVar[int] = 0
    """Views of each image beside the crop that is contrasted with its texts."""
    has_decoder: ClassVar[bool] = False
    """Whether the architecture must have a captioning decoder, which is trained with the towers."""
    temperature_init: float = Field(gt=0)
    """Temperature of the first step; the logit scale starts at its inverse. CLIP uses 0.07."""

    @classmethod
    def source(cls) -> str:
        """The publication, as the docstring of the recipe's file cites it."""
        cited = re.search(r"^Source: (.+?)(?:\n\n|\Z)", _docstring(cls), re.DOTALL | re.MULTILINE)
        return " ".join(cited[1].split()) if cited else "none"

    @property
    def own_texts(self) -> TextPolicy | None:
        """The text policy that is part of the method; None leaves it to `pretrain.texts`."""
        return None

    @property
    def logit_bias_init(self) -> float | None:
        """Where a learned bias of the logits starts, if the objective has one."""
        return None

    def phases(self, whole: Phase) -> list[Phase]:
        """Training in its order, with as many steps as `whole`, which is what `pretrain` says of it."""
        return [whole]

    def view(
        self, image: Image.Image, size_px: int, rng: random.Random
    ) -> UInt8[np.ndarray, "size size 3"]:
        """One of the `num_views` of an image, by the given random numbers alone."""
        raise NotImplementedError

    @abstractmethod
    def objective(self, towers: Towers) -> nn.Module:
        """Towers and loss in one module: `(batch: clipflow.model.batch.Batch) -> {"loss": scalar, ...}`.

        What is returned beside the loss is logged under its name. An objective that compares images with
        texts otherwise than by the dot product of their embeddings has that as its `similarity`
        (`clipflow.model.similarity.Similarity`), which the checkpoint keeps. Its buffers are saved with the
        state; a `clipflow.model.between_steps.BeforeStep` is called between steps.
        """


CATALOGUE = Catalogue(__name__)


def table() -> str:
    """Every recipe as a row of a Markdown table: name, what it is, source, status."""
    rows = [("recipe", "what", "source", "status")]
    for name in CATALOGUE.names():
        recipe = CATALOGUE.load(name)
        assert issubclass(recipe, Recipe)
        what = _docstring(recipe).splitlines()[0].partition(": ")[2].removesuffix(".")
        source = re.sub(r"^(.+? \d{4}),.*\((arXiv:[\d.]+)\).*", r"\1, \2", recipe.source())
        rows.append((f"`{name}`", what, source, recipe.status))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2], "-" * widths[3]))
    return "\n".join(
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |"
        for row in rows
    )


def _docstring(recipe: type[Recipe]) -> str:
    """That of the recipe's file."""
    return inspect.getdoc(sys.modules[recipe.__module__]) or ""
