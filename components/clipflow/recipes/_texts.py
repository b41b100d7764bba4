"""Text policies: which of a pair's texts, its caption and its rewrites, one step shows."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from pydantic import Field

TextPolicy = Literal["caption", "drawn"] | Annotated[int, Field(ge=1)]


def shown(policy: TextPolicy, caption: str, rewrites: list[str], rng: random.Random) -> list[str]:
    """The texts of one pair in one step: always the same number, whatever the pair has.

    - `caption`: the caption alone.
    - `drawn`: one text, drawn uniformly from the caption and its M rewrites; a drawn text of fewer than two
      words gives way to the caption.
    - a number K: the caption and its first K - 1 rewrites; a pair with fewer shows its caption again.

    Source: `drawn` is LaCLIP's equation 3, a number its multi-text variant (Fan et al. 2023,
    arXiv:2305.20088, section 3.3).
    """
    if policy == "caption":
        return [caption]
    if policy == "drawn":
        text = rng.choice([caption, *rewrites])
        return [text if len(text.split()) >= 2 else caption]
    versions = [caption, *rewrites][:policy]
    return versions + [caption] * (policy - len(versions))
