"""Signs of a text's language: the scripts of its letters, and words such as `the` and `und`."""

from __future__ import annotations

import unicodedata
from collections.abc import Set

from clipflow.rewrite.english import word_set

LATIN = "LATIN"
ENGLISH = word_set(
    "a an the of in on at to and or with is are was were this that these those it its his her their"
    " from by for as while who which near next beside between behind under over there"
)
GERMAN = (
    "der das und mit ein eine einen einem einer auf ist sind wird nicht von dem ihre ihrem ihren"
    " f\u00fcr \u00fcber neben vor zwei beim zum zur"
)
FRENCH = "le la les un une dans avec sur est sont et qui du pr\u00e8s deux cette elle"
SPANISH = "el los las una con sobre para por y en est\u00e1 est\u00e1n junto dos su del"
ITALIAN = "il gli della delle nel nella sul sulla una che sono di con si accanto su e"
PORTUGUESE = "uma um com em da na os ao s\u00e3o est\u00e1 e dois sobre pelo perto"
DUTCH = "een het op aan zijn naar voor naast en wordt"
FOREIGN = word_set(" ".join((GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, DUTCH))) - {*"aey"}
"""Frequent words of other languages that are no English words: not `die`, `pour`, `met` or `van`."""
LAST_LATIN = "\u024f"
"""Letters up to here are Latin."""
NO_SCRIPT = word_set(
    "MODIFIER MATHEMATICAL FULLWIDTH DOUBLE-STRUCK SCRIPT BLACK-LETTER SUPERSCRIPT SUBSCRIPT"
    " PLANCK OHM KELVIN ANGSTROM"
)
"""What the names of letters that belong to no script begin with."""
JAPANESE = frozenset({"HIRAGANA", "KATAKANA", "HALFWIDTH", "KATAKANA-HIRAGANA"})


def scripts(text: str) -> frozenset[str]:
    """The scripts of a text's letters; Chinese and Japanese count as one."""
    if text.isascii():
        return frozenset({LATIN}) if any(map(str.isalpha, text)) else frozenset()
    found = {LATIN} if any(c <= LAST_LATIN and c.isalpha() for c in text) else set[str]()
    for letter in set(text):
        if letter > LAST_LATIN and letter.isalpha():
            found.add(unicodedata.name(letter, "").partition(" ")[0])
    if found & JAPANESE:
        found = (found - JAPANESE) | {"CJK"}
    return frozenset(found - NO_SCRIPT - {""})


def is_english(words: Set[str]) -> bool:
    """Whether frequent English words are among these, and more of them than of other languages."""
    return len(words & ENGLISH) > len(words & FOREIGN)


def has_drifted(words: Set[str], original: Set[str]) -> bool:
    """Whether a rewrite of an English text is in another language.

    True if of the frequent words that the original doesn't have, two or more are foreign, and more
    are foreign than the rewrite has English ones.
    """
    foreign = len((words & FOREIGN) - original)
    return foreign >= 2 and foreign > len(words & ENGLISH)


def changes_script(text: str, original: frozenset[str]) -> bool:
    """Whether a rewrite has letters of scripts that the original has not, or no script that it has.

    Latin letters beside those of the original's script are none of that: names are often written so.
    """
    if text.isascii() and (LATIN in original or not original):
        return False
    found = scripts(text)
    if not original:
        return bool(found - {LATIN})
    return bool(found - original - {LATIN}) or bool(found and not found & original)
