"""Parameters of the rewrite stage: `rewrite:` in params.yaml, with the selected generator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SerializeAsAny

from clipflow.catalogue import Section
from clipflow.rewrite.generators import Generator


class Params(Section):
    """How many rewrites to make of each caption, by what, and what is accepted."""

    generator: SerializeAsAny[Generator]
    """Which entry of `generators:` writes."""
    num_rewrites: int = Field(ge=0)
    """Rewrites per caption. The LaCLIP paper uses 4, one per source of meta-pairs."""
    seed: int = Field(ge=0)
    """Seed of meta-pair draws and of sampling."""
    max_words: int = Field(ge=2)
    """Candidates with more words are rejected."""
    lost_facts: Literal["keep", "flag", "drop"]
    """What becomes of a rewrite without a number or name that the caption has: kept, kept and flagged in
    the artifact, or rejected."""
    agreement: str | None = Field(min_length=1)
    """What measures how well rewrites agree with their captions, for the report alone: `wordllama`, whose
    weights come with the package, or name or folder of a transformers text encoder. Null: nothing does."""
