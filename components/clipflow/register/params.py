"""Parameters of the register stage: `register:` in params.yaml."""

from __future__ import annotations

from pydantic import Field

from clipflow.catalogue import Section


class Params(Section):
    """The registered model, and the gate to its `@champion` alias."""

    model: str = Field(min_length=1)
    """Name in the MLflow model registry."""
    primary: str
    """Metric of the report that decides, such as `zero_shot/mean/top1`."""
    min_gain: float = Field(ge=0)
    """How much the primary metric must exceed the champion's; a fraction, 0.01 is one point."""
    max_drop: float = Field(ge=0)
    """How far below the champion's any one benchmark may fall; a fraction."""
    guards: list[str]
    """Metrics that must not drop, as shell patterns: `zero_shot/*/top1`."""
