"""Parameters of the evaluate stage: `evaluate:` in params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipflow.catalogue import Section


class Params(Section):
    """What to measure, and what to show beside it."""

    batch_size: int = Field(ge=1)
    """Images or texts embedded at once; changes speed and memory, not results."""
    recall_at: list[int] = Field(min_length=1)
    """The k of retrieval R@k, both ways."""
    probe: Literal["none", "logistic"]
    """Linear probe on frozen image features: logistic regression, or none."""
    gallery_size: int = Field(ge=0)
    """Retrieval queries shown in the report."""
    seed: int = Field(ge=0)
    """Seed of the gallery's draw."""
    champion: str
    """Registered model whose `@champion` the report is compared with; nothing is compared if none is."""
