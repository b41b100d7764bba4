"""Parameters of the ingest stage: `ingest:` in params.yaml, with the selected entry of `sources:`."""

from __future__ import annotations

from pydantic import Field, SerializeAsAny

from clipflow.catalogue import Section
from clipflow.ingest.captions import CaptionRules
from clipflow.ingest.curation import Curation
from clipflow.ingest.duplicates import DuplicateRules
from clipflow.ingest.images import ImageRules
from clipflow.ingest.sources import Source


class Params(Section):
    """What to take in, and how to store it."""

    source: SerializeAsAny[Source]
    """Which entry of `sources:` to read."""
    data: str
    """Path or s3:// URL that the source reads and DVC watches; `scenes` reads nothing, so its code
    stands here."""
    seed: int = Field(ge=0)
    """Seed of everything random in the source."""
    samples_per_shard: int = Field(ge=1)
    """Rows in each tar shard; of those, what can't be used is missing."""
    sample: float = Field(gt=0, le=1)
    """Share of the rows to take, by their keys: a larger share has the smaller one in it, and rows that
    are added later don't change who is in it."""
    limit: int | None = Field(ge=1)
    """At most so many rows, the first of the sample; null: all."""
    keys_file: str | None
    """Only the samples whose keys this file names, a key a line; null: all."""
    images: ImageRules
    """Which images are taken, and how they are stored."""
    captions: CaptionRules
    """Which captions are taken."""
    duplicates: DuplicateRules
    """Which images are taken once only, or not at all."""
    at_least: dict[str, float]
    """Numbers that go along with a row (the source's `carry`) must be at least so large: LAION's
    `{similarity: 0.3}` is a threshold on the CLIP score. Rows without the number are left out."""
    at_most: dict[str, float]
    """They must be at most so large: `{punsafe: 0.5}`."""
    decontaminate: list[str]
    """Benchmarks, folder or s3:// URL, whose images may not be trained on either."""
    curation: Curation | None
    """Balance captions over a list of what there is (MetaCLIP); null: take all."""
