"""Facts of a caption that a rewrite should keep: its numbers and its names."""

from __future__ import annotations

import re
from collections.abc import Set

from clipflow.rewrite.languages import ENGLISH

NUMBER = re.compile(
    r"\d(?<![\w.,#]\d)"  # a pattern that begins with a figure is searched fast
    r"(?!\d{3,}\b(?<!\b(?:19|20)\d\d))"
    r"\d*(?:[.,:]\d+)*(?!\w)"
)
"""Figures that stand alone: not those in `3d`, `1920s` or `DSC_0042`, and no codes such as `#12` or
`24576`: four figures or more that are no year."""
FIGURES = re.compile(r"\d+(?:[.,:]\d+)*")
UNITS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty"
)
TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
WORDS = {
    **{word: str(number) for number, word in enumerate(UNITS.split(), start=2)},
    **{word: str(10 * number) for number, word in enumerate(TENS.split(), start=3)},
    "pair": "2",
    "couple": "2",
    "both": "2",
    "trio": "3",
    "dozen": "12",
    "thousand": "1000",
}
"""Words for numbers. `one` is not among them: mostly it is a pronoun, or `a` says as much."""
ONE = frozenset({"one", "a", "an", "single"})
"""What says `1` in words."""
ENDS = ".!?:;|-\u2013\u2014(\"'\u201c\u2018/"
"""After one of these a capital may be there because something begins."""
MIN_CONTENT_LETTERS = 4
"""A shorter word in lower case is no sign that a caption isn't in title case."""


def numbers(text: str, words: Set[str], pattern: re.Pattern[str] = NUMBER) -> frozenset[str]:
    """The numbers that a text holds, in figures, `1,000` as `1000`; `words` are its plain words."""
    found = {WORDS[word] for word in words & WORDS.keys()}
    found.update(number.replace(",", "") for number in pattern.findall(text))
    return frozenset(found)


def names(caption: str) -> frozenset[str]:
    """The capitalised words of a caption in lower case, but those with which a sentence begins.

    None in captions in title case or all in capitals, where a capital says nothing.
    """
    if caption[1:].islower():  # as most are
        return frozenset()
    found, is_ordinary, begins = set[str](), False, True
    for token in caption.split():
        word = token.strip(ENDS + ",)\u201d\u2019#")
        if word[1:] and word[0].isupper():
            if not begins:
                found.add(word.lower().removesuffix("'s").removesuffix("\u2019s"))
        elif len(word) >= MIN_CONTENT_LETTERS and word.isalpha() and word not in ENGLISH:
            is_ordinary = True
        begins = token[-1] in ENDS or (begins and not word)
    return frozenset(found) if is_ordinary else frozenset()
