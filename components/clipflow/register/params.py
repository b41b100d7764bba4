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
    """What the primary metric's gain over the champion must surely exceed (95 % interval by paired
    bootstrap); a fraction, 0.01 is one point."""
    max_drop: float = Field(ge=0)
    """How far any guarded metric may surely fall below the champion's (intervals together at 95 %)."""
    guards: list[str]
    """Metrics that must not drop, as shell patterns: `zero_shot/*/top1`."""
