"""Parameters of the evaluate stage: `evaluate:` in params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clipflow.catalogue import Section


class Params(Section):
    """What to measure, and what to show beside it."""

    batch_size: int = Field(ge=1)
    """Images or texts embedded at once; changes speed and memory, not results."""
    recall_at: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """The k of retrieval R@k, both ways."""
    probe_c: list[Annotated[float, Field(gt=0)]]
    """Inverse regularisation strengths (C) that the linear probe chooses from; [] skips it."""
    gallery_size: int = Field(ge=0)
    """Retrieval queries, confident mistakes and rewritten captions shown in the report, each."""
    seed: int = Field(ge=0)
    """Seed of the gallery's draw."""
    champion: str
    """Registered model whose `@champion`, if there is one, the report is compared with."""
