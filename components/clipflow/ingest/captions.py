"""Any caption -> one that can be trained on, or why not."""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby
from typing import Annotated

from pydantic import Field

from clipflow.catalogue import Section
from clipflow.page.text import JOINERS, JUNK

NOT_PLAIN = re.compile(r"[^\x20-\x7e]")


class UnusableCaptionError(Exception):
    """Why a caption can't be used; the text becomes the reason in the manifest."""


class CaptionRules(Section):
    """Which captions are taken; null takes all. Spaces are made single, and controls taken out, anyway."""

    min_words: Annotated[int, Field(ge=1)] | None
    """Fewest words, split at spaces."""
    max_words: Annotated[int, Field(ge=1)] | None
    """Most words."""
    min_chars: Annotated[int, Field(ge=1)] | None
    """Fewest characters."""
    max_chars: Annotated[int, Field(ge=1)] | None
    """Most characters."""
    max_char_run: Annotated[int, Field(ge=1)] | None
    """Most times that one character may stand in a row: `!!!!!!!!`."""
    min_letter_share: Annotated[float, Field(ge=0, le=1)] | None
    """Smallest share of letters, of any script, among characters that aren't spaces."""


def clean(caption: str, rules: CaptionRules) -> str:
    """The caption with single spaces and without control characters and halves of surrogate pairs.

    Raises UnusableCaptionError if it is empty then, or a rule forbids it.
    """
    if NOT_PLAIN.search(caption):
        caption = "".join(c for c in caption if c.isspace() or _is_seen(c))
    caption = " ".join(caption.split())
    if not caption:
        raise UnusableCaptionError("empty caption")
    num_words = caption.count(" ") + 1
    if rules.min_words is not None and num_words < rules.min_words:
        raise UnusableCaptionError("caption of too few words")
    if rules.max_words is not None and num_words > rules.max_words:
        raise UnusableCaptionError("caption of too many words")
    if rules.min_chars is not None and len(caption) < rules.min_chars:
        raise UnusableCaptionError("caption too short")
    if rules.max_chars is not None and len(caption) > rules.max_chars:
        raise UnusableCaptionError("caption too long")
    if rules.max_char_run is not None and _longest_run(caption) > rules.max_char_run:
        raise UnusableCaptionError("caption repeats a character")
    if rules.min_letter_share is not None and _letter_share(caption) < rules.min_letter_share:
        raise UnusableCaptionError("caption of too few letters")
    return caption


def _is_seen(character: str) -> bool:
    return character in JOINERS or unicodedata.category(character) not in JUNK


def _longest_run(text: str) -> int:
    return max(sum(1 for _ in run) for _, run in groupby(text))


def _letter_share(text: str) -> float:
    seen = text.replace(" ", "")
    return sum(c.isalpha() for c in seen) / len(seen)
