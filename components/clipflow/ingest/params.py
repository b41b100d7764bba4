"""Parameters of the ingest stage: `ingest:` in params.yaml, with the selected entry of `sources:`."""

from __future__ import annotations

from pydantic import Field, SerializeAsAny

from clipflow.catalogue import Section
from clipflow.ingest.sources import Source


class Params(Section):
    """What to take in, and how to store it."""

    source: SerializeAsAny[Source]
    """Which entry of `sources:` to read."""
    data: str
    """Path that the source reads and DVC watches; `scenes` reads nothing, so its code stands here."""
    seed: int = Field(ge=0)
    """Seed of everything random in the source."""
    samples_per_shard: int = Field(ge=1)
    """Pairs in each tar shard."""
    jpeg_quality: int = Field(ge=1, le=95)
    """JPEG quality of stored images; images that already are RGB JPEGs are kept as they are."""
