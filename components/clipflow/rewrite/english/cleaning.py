"""Cleaning: a web caption without all that does not describe the picture."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path

from clipflow.rewrite import english
from clipflow.rewrite.english.thesaurus import load

FILE = Path(__file__).with_name("boilerplate.txt")
MARKS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "."})
SEPARATOR = re.compile(r"\s*[|\u2022\u00b7\u00bb]+\s*|\s+(?:[-\u2013\u2014~/]|::)\s+")
JUNK = re.compile(
    r"""
    <[^>]{0,200}>                                     # markup
  | \b(?:https?://|www\.)\S+ | \b[\w-]+\.(?:com|net|org|co\.uk|io|shop)\b\S*
  | \b(?:photo|image|picture|photographed|credit)s?\s*(?:by|:|\u00a9)\s.*$   # credits, to the end
  | (?:\(c\)|\u00a9|\u00ae|\u2122)(?:\s*(?:19|20)\d\d\b)?
  | (?:\s\#\w+)+\s*$ | @\w+                           # trailing hashtags, handles
  | \bonly\s+(?=[$\u00a3\u20ac])
  | (?:[$\u00a3\u20ac]\s?\d[\d.,]*|\b\d[\d.,]*\s?(?:usd|eur|gbp|dollars|euros)\b)(?:\s+only\b)?
  | \b\d+\s?%\s+off\b
  | \b\d{2,5}\s?[x\u00d7*]\s?\d{2,5}(?:\s?(?:px|pixels|cm|mm|in|inch|inches))?\b
  | \b(?:sku|id|ref|art|item|model|no|nr)\s?(?:[.:\#]|no\.?)?\s?\#?(?=[\w-]*\d)[\w-]{3,}
  | \#\d+\b
  | \b(?:img|dsc|dscn|dscf|pict|mvi|screenshot)[-_ ]?\d+\b
  | \.(?:jpe?g|png|gif|webp|tiff?)\b
  | \b(?=[\w-]*\d)(?=[\w-]*[a-z])(?!\d+(?:st|nd|rd|th|s|d|-\w+)\b)[\w-]{5,}(?<!\s)\b   # codes
  | (?<![\w.,])(?!(?:19|20)\d\d\b)\d{4,}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
MAY_HOLD_JUNK = re.compile(
    r"[\d<@#$%\u00a9\u00ae\u2122\u00a3\u20ac]|://|\bby\b|\w\.\w|:", re.IGNORECASE
)
EMPTY = re.compile(r"\(\s*\)|\[\s*\]|\"\s*\"|\s+(?=[,.;:!?])|([,.;:!?])(?:\s*[,.;:!?])+")
DOUBLED = re.compile(r"\b([a-z]+)(?: \1\b)+", re.IGNORECASE)
DANGLING = re.compile(
    r"(?:[\s,;:.!&+*=_~\"(\[-]|\s(?:and|or|by|with|of|for|from|in|on|at|the|a|an|to))+$"
)
LONG_SEGMENT = 4
"""Of several segments (around `|` or ` - `) the best known stays; another stays only if it has two
words, all of them known, or this many, half of them known."""


def clean(caption: str) -> str:
    """The part that describes, in sentence case; the caption itself if nothing is left."""
    text = html.unescape(caption) if "&" in caption else caption
    text = " ".join(text.translate(MARKS).split())
    if " " not in text:
        text = _file_name(text)
    segments = [part for part in map(_describing, SEPARATOR.split(text)) if part]
    if not segments:
        return caption.strip()
    best = max(segments, key=_num_known)
    kept = [part for part in segments if part is best or _is_description(part)]
    return _sentence_case(DOUBLED.sub(r"\1", ", ".join(dict.fromkeys(kept))))


def _describing(segment: str) -> str:
    text = f" {segment}"
    if MAY_HOLD_JUNK.search(text):
        text = JUNK.sub(" ", text).replace("#", "")
    text = " ".join(_phrases().sub(" ", text).split())
    text = EMPTY.sub(r"\1", text)
    text = DANGLING.sub("", text).lstrip(" ,;:.!-*+=_~")
    return text if any(character.isalpha() for character in text) else ""


def _file_name(text: str) -> str:
    """`red-wool_hat.jpg` as words: captions without a space are often the name of a file."""
    parts = re.split(r"[-_+]|%20", re.sub(r"\.\w{3,4}$", "", text))
    return " ".join(filter(None, parts)) if len(parts) > 2 or "_" in text or "." in text else text


def _is_function_word(word: str) -> bool:
    return word in english.BOUNDARIES or word in english.DETERMINERS or word in english.NUMBERS


def _num_known(segment: str) -> int:
    words = segment.lower().split()
    known = load().groups
    return sum(word.strip(",.;:!?\"'()") in known or _is_function_word(word) for word in words)


def _is_description(segment: str) -> bool:
    num_words, num_known = segment.count(" ") + 1, _num_known(segment)
    if num_words < LONG_SEGMENT:
        return 2 <= num_words == num_known
    return 2 * num_known >= num_words


def _sentence_case(text: str) -> str:
    """Shouted and Title Cased words in lower case; names in an ordinary sentence keep theirs."""
    words = text.split()
    capitals = sum(word[0].isupper() for word in words)
    lower = sum(word[0].islower() and not _is_function_word(word) for word in words)
    if capitals > 1 and not lower:
        return text.lower()
    first = words[0]
    is_acronym = first.isupper() and 1 < len(first) <= 4
    if not is_acronym and not (len(words) > 1 and words[1][0].isupper()):
        words[0] = first.lower()
    return " ".join(w.lower() if w.isupper() and len(w) > 4 else w for w in words)


@cache
def _phrases() -> re.Pattern[str]:
    lines = FILE.read_text(encoding="ascii").splitlines()
    phrases = sorted((line for line in lines if line and line[0] != "#"), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, phrases))})(?![\w-])", re.IGNORECASE)
