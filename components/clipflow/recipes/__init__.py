"""Recipes: pre-training methods. One file per method; the file's name is its name.

A recipe's fields are its keys under `recipes:` in params.yaml. Its methods are the ways in which
methods differ: what is minimised, and which texts a pair shows where that is part of the method. Every
other recipe takes any of the text policies, by `pretrain.texts`.
"""

from __future__ import annotations

import inspect
import re
import sys
from abc import abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow.catalogue import Catalogue, Choice
from clipflow.recipes._texts import TextPolicy, shown

if TYPE_CHECKING:
    from torch import nn

    from clipflow.model.towers import Towers

__all__ = ["CATALOGUE", "Recipe", "TextPolicy", "shown"]


class Recipe(Choice):
    """One pre-training method."""

    temperature_init: float = Field(gt=0)
    """Temperature of the first step; the logit scale starts at its inverse. CLIP uses 0.07."""

    def source(self) -> str:
        """The publication, as the docstring of the recipe's file cites it."""
        text = inspect.getdoc(sys.modules[type(self).__module__]) or ""
        cited = re.search(r"^Source: (.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        return " ".join(cited[1].split()) if cited else "none"

    @property
    def own_texts(self) -> TextPolicy | None:
        """The text policy that is part of the method; None leaves it to `pretrain.texts`."""
        return None

    @property
    def logit_bias_init(self) -> float | None:
        """Where a learned bias of the logits starts, if the objective has one."""
        return None

    @abstractmethod
    def objective(self, towers: Towers) -> nn.Module:
        """Towers and loss in one module: `(images, texts) -> {"loss": scalar, ...}`.

        `images` are uint8 [batch, height, width, 3], `texts` as in `clipflow.model.texts`; what is returned
        beside the loss is logged under its name.
        """


CATALOGUE = Catalogue(__name__)
