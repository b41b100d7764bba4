"""Text policies: which of a pair's texts, its caption and its rewrites, one step shows."""

from __future__ import annotations

import random
import re
from typing import Annotated, Literal

from pydantic import Field

TextPolicy = (
    Literal["caption", "drawn"]
    | Annotated[int, Field(ge=1)]
    | Annotated[str, Field(pattern=r"^sentences-[1-9]\d*$")]
)

SENTENCE_END = re.compile(r"[.!?]+[\"')\]\u201d\u2019]*(?=\s|$)|\n")
ABBREVIATED = re.compile(r"\b(?:[A-Z]|[Mm]rs?|[Mm]s|[Dd]r|[Ss]t|[Vv]s|e\.g|i\.e)\.\Z")
"""A full stop that ends no sentence."""
MIN_WORDS = 2


def shown(policy: TextPolicy, caption: str, rewrites: list[str], rng: random.Random) -> list[str]:
    """The texts of one pair in one step: always the same number, whatever the pair has.

    - `caption`: the caption alone.
    - `drawn`: one text, drawn uniformly from the caption and its M rewrites; a drawn text of fewer than two
      words gives way to the caption.
    - a number K: the caption and its first K - 1 rewrites; a pair with fewer shows its caption again.
    - `sentences-K`: the caption and K - 1 sentences, drawn from those of all its rewrites without putting
      back; a pair with fewer shows its caption again.

    Source: `drawn` is LaCLIP's equation 3, a number its multi-text variant (Fan et al. 2023,
    arXiv:2305.20088, section 3.3); `sentences-K` is DreamLIP's (Zheng et al. 2024, arXiv:2403.17007), who
    draw with putting back from too few.
    """
    if policy == "caption":
        return [caption]
    if policy == "drawn":
        text = rng.choice([caption, *rewrites])
        return [text if len(text.split()) >= MIN_WORDS else caption]
    if isinstance(policy, str):
        num = int(policy.removeprefix("sentences-"))
        found = [sentence for rewrite in rewrites for sentence in sentences(rewrite)]
        versions = [caption, *rng.sample(found, min(num - 1, len(found)))]
    else:
        num = policy
        versions = [caption, *rewrites][:num]
    return versions + [caption] * (num - len(versions))


def sentences(text: str) -> list[str]:
    """The sentences of a text that have two words or more.

    One ends with a full stop, question or exclamation mark before a space, or with its line; not after an
    initial or a common abbreviation.
    """
    text, found, start = f"{text}\n", [], 0
    for mark in SENTENCE_END.finditer(text):
        if not ABBREVIATED.search(text[start : mark.end()]):
            found.append(text[start : mark.end()].strip())
            start = mark.end()
    return [sentence for sentence in found if len(re.findall(r"\w+", sentence)) >= MIN_WORDS]
