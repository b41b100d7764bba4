"""Checks: whether a candidate is a rewrite worth training on, and if not, why."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from clipflow.artifacts.rewrites import ACCEPTED
from clipflow.page.text import JOINERS, JUNK, REPLACEMENT
from clipflow.rewrite import facts, languages, prompts
from clipflow.rewrite.english import word_set

MIN_WORDS = 2
"""LaCLIP trains on the original instead of a text with fewer words."""
MIN_ECHO_WORDS = 4
"""Fewer words of an example in a row may well be a rewrite's own."""

PUNCTUATION = re.compile(r"[\W_]+")
ASCII_PUNCTUATION = {code: " " for code in range(128) if not chr(code).isalnum()}
PREAMBLE = re.compile(
    r"\s*(?:sure|certainly|of course|okay|rewritten|rewrite|caption|answer|here(?:'s| is| are))\b"
    r"[^:]{0,60}:",
    re.IGNORECASE,
)
"""What chat models say before they answer."""
REFUSING = word_set("ai language sorry cannot unable apologize apologise t")
"""Words of which every refusal has one; `can't` is `can t` in plain words."""
REFUSAL = re.compile(
    r"\b(?:as|i m|i am|i m just|i am just) an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|^(?:i m|i am|we re|we are)? ?(?:very |so |really )?sorry (?:but|i|we|this|that|as|however)\b"
    r"|\bi apologi[sz]e\b"
    r"|\bi (?:cannot|can t|can not|won t|m unable to|am unable to|m not able to|am not able to)"
    r" (?:help|assist|provide|rewrite|rephrase|generate|create|describe|write|fulfill?|comply"
    r"|see|view|access|identify|do (?:that|this)|complete|answer|process|continue|engage)\b"
    r"|^(?:cannot|unable to) (?:help|assist|provide|rewrite|generate|fulfill?|comply|complete)\b"
)
"""Refusals, in plain words."""
MAIL = re.compile(r"[\w.+-]@[\w-]+\.\w")
DOMAIN = re.compile(
    r"\.(?<=[\w-][\w-]\.)(?:com|org|net|edu|gov|info|biz|io|co|uk|de|fr|es|it|nl|ru|eu|pl|br|cn|jp"
    r"|au|ca|ch|se|tv|app|dev|shop|store|online|blog|site|xyz)\b"
)
"""The end of a site's name; in lower case, or a sentence may begin there."""


class Original(NamedTuple):
    """What checks need to know of a caption, found once for all its candidates."""

    plain: str
    scripts: frozenset[str]
    words: frozenset[str]
    is_english: bool
    numbers: frozenset[str]
    names: frozenset[str]
    """In plain words."""

    @classmethod
    def of(cls, caption: str) -> Original:
        """The facts of a caption."""
        same = plain(caption)
        words = frozenset(same.split())
        names = facts.names(caption)
        return cls(
            same,
            languages.scripts(caption),
            words,
            languages.is_english(words),
            facts.numbers(caption, words),
            frozenset(plain(" ".join(names)).split()) if names else names,
        )


def outcome(
    candidate: str, same: str, original: Original, accepted: Collection[str], *, max_words: int
) -> str:
    """`accepted`, or the reason why not; `same` is the plain candidate. It is the first that holds of

    `empty`; `control characters` (or invisible ones, or damaged ones); `prompt` (holds the prompt's
    arrow or instruction or a chat preamble, or is an example or a long piece of one); `refusal`; `URL`
    (or a mail address); `too short` (fewer than two words); `too long` (more than `max_words`);
    `repeated tokens` (up to three words three times in a row, or more than three twice); `copy` (the
    caption, up to case, punctuation and space); `duplicate` (one of `accepted`, which are plain);
    `other language` (than the caption's).
    """
    words = same.split()
    if not words:
        return "empty"
    different = frozenset(words)
    if has_junk(candidate):
        return "control characters"
    if is_prompt(candidate, same, original):
        return "prompt"
    if not REFUSING.isdisjoint(different) and REFUSAL.search(same):
        return "refusal"
    if is_address(candidate):
        return "URL"
    if len(words) < MIN_WORDS:
        return "too short"
    if len(words) > max_words:
        return "too long"
    if is_repetitive(words):
        return "repeated tokens"
    if same == original.plain:
        return "copy"
    if same in accepted:
        return "duplicate"
    if languages.changes_script(candidate, original.scripts):
        return "other language"
    if original.is_english and languages.has_drifted(different, original.words):
        return "other language"
    return ACCEPTED


def lost(candidate: str, same: str, original: Original) -> list[str]:
    """`lost number` and `lost name`, where the caption has one that the candidate has not."""
    if not original.numbers and not original.names:
        return []
    words = frozenset(same.split())
    found = []
    if original.numbers:
        missing = original.numbers - facts.numbers(candidate, words, facts.FIGURES)
        if missing - {"1"} or (missing and facts.ONE.isdisjoint(words)):
            found.append("lost number")
    if not words.issuperset(original.names):
        found.append("lost name")
    return found


def plain(text: str) -> str:
    """The text in lower case, without punctuation, with single spaces."""
    if text.isascii():  # several times faster
        return " ".join(text.lower().translate(ASCII_PUNCTUATION).split())
    return PUNCTUATION.sub(" ", text.lower()).strip()


def has_junk(text: str) -> bool:
    """True if the text has characters that control, hide, reorder or stand for what is lost."""
    if text.isprintable():
        return not text.isascii() and REPLACEMENT in text
    return any(unicodedata.category(c) in JUNK and c not in JOINERS for c in text)


def is_address(text: str) -> bool:
    """True if the text holds the address of a site or a mailbox."""
    if "." not in text[:-1]:
        return "://" in text
    if "www." in text or "://" in text or DOMAIN.search(text):
        return True
    return "@" in text and MAIL.search(text) is not None


def is_prompt(candidate: str, same: str, original: Original) -> bool:
    """True if the candidate gives the prompt back; the caption's own words in a row are no prompt."""
    if prompts.ARROW in candidate or "image captions differently" in same:
        return True
    if ":" in candidate and PREAMBLE.match(candidate):
        return True
    return same in _echoes() and same not in original.plain


def is_repetitive(words: Sequence[str]) -> bool:
    """True if up to three words are said three times in a row, or more than three twice."""
    num_repeated = len(words) - len(set(words))
    if num_repeated < 4:  # as in most texts: at best one word three times in a row
        return num_repeated > 1 and any(
            a == b == c for a, b, c in zip(words, words[1:], words[2:], strict=False)
        )
    places: dict[str, list[int]] = {}
    num_matches: Counter[int] = Counter()
    for place, word in enumerate(words):
        earlier = places.setdefault(word, [])
        for other in earlier:
            num_matches[place - other] += 1
        earlier.append(place)
    # A phrase said again is as many matches in a row at the distance of its length.
    for length, num in num_matches.items():
        needed = length * (2 if length <= 3 else 1)
        if num < needed:
            continue
        run = 0
        for word, later in zip(words, words[length:], strict=False):
            run = run + 1 if word == later else 0
            if run == needed:
                return True
    return False


@cache
def _echoes() -> frozenset[str]:
    """Every text in the prompts, and every piece of one that is long enough to be known by."""
    found = set[str]()
    for text in prompts.texts():
        words = plain(text).split()
        for first in range(len(words) - MIN_ECHO_WORDS + 1):
            for last in range(first + MIN_ECHO_WORDS, len(words) + 1):
                found.add(" ".join(words[first:last]))
        found.add(" ".join(words))
    return frozenset(found)
