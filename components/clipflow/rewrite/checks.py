"""Checks: whether a candidate is a rewrite worth training on, and if not, why."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from clipflow.artifacts.rewrites import ACCEPTED

MIN_WORDS = 2
"""LaCLIP trains on the original instead of a text with fewer words."""

PUNCTUATION = re.compile(r"[\W_]+")
PROMPT = re.compile(
    r"=>|image captions? differently"
    r"|^(?:sure|certainly|of course|okay|rewritten|rewrite|caption|here(?:'s| is| are))\b"
    r"[^:]{0,60}:"
    r"|\bas an ai\b",
    re.IGNORECASE,
)
"""Pieces of the prompt, and what chat models say before they answer."""


def outcome(candidate: str, caption: str, accepted: Collection[str], *, max_words: int) -> str:
    """`accepted`, or the reason why not: the first that holds of

    `empty`, `prompt` (holds a piece of the prompt or a chat preamble), `too short` (fewer than two
    words), `too long` (more than `max_words`), `repeated tokens` (up to three words three times in
    a row, or more than three twice), `copy` (the caption, up to case, punctuation and space),
    `duplicate` (so of one of `accepted`).
    """
    words = plain(candidate).split()
    if not words:
        return "empty"
    if PROMPT.search(candidate):
        return "prompt"
    if len(words) < MIN_WORDS:
        return "too short"
    if len(words) > max_words:
        return "too long"
    if is_repetitive(words):
        return "repeated tokens"
    same = plain(candidate)
    if same == plain(caption):
        return "copy"
    if any(same == plain(other) for other in accepted):
        return "duplicate"
    return ACCEPTED


def plain(text: str) -> str:
    """The text in lower case, without punctuation, with single spaces."""
    return PUNCTUATION.sub(" ", text.lower()).strip()


def is_repetitive(words: Sequence[str]) -> bool:
    """True if up to three words are said three times in a row, or more than three twice."""
    if len(set(words)) == len(words):
        return False
    for length in range(1, len(words) // 2 + 1):
        needed = length * (2 if length <= 3 else 1)
        run = 0
        for word, later in zip(words, words[length:], strict=False):
            run = run + 1 if word == later else 0
            if run == needed:
                return True
    return False
