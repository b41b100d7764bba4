"""Whether the lines of a file say what the captions beside them say.

A rewrite shares words with its caption. From the line on where a file has one line too many or too few, it
shares no more with the caption beside it than with any other: that is what is looked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from statistics import fmean, median
from typing import NamedTuple

from clipflow.rewrite import checks, english

WINDOW = 256
"""Rows that are judged together."""
MIN_ROWS = 32
"""Fewer at a file's end are not judged."""
FAR = 16
"""A text is held against the caption this many rows before its own, for comparison."""
NUM_COLLAPSED = 2
"""Windows in a row that must have collapsed: one alone may be odd captions."""
MIN_OVERLAP = 0.2
"""What a file's first window must reach, before there is anything to compare it with."""
COMMON = english.BOUNDARIES | english.DETERMINERS
"""Words that any two texts share."""


class Alignment:
    """Follows the texts of one file, row by row."""

    def __init__(self) -> None:
        self._captions: deque[frozenset[str]] = deque(maxlen=FAR)
        self._window: list[_Row] = []
        self._collapsed: list[_Row] = []
        """Rows of the windows that have collapsed, without a good one since."""
        self._good: list[_Row] = []
        """Rows of the good window before those."""
        self._overlaps: list[float] = []
        """The median overlap of each good window."""
        self._num_rows = 0
        self._broken_at: int | None = None

    def see(self, caption: frozenset[str], text: frozenset[str]) -> None:
        """Take in the words of the next row."""
        self._num_rows += 1
        if self._broken_at is not None:
            return
        if caption and text:
            other = self._captions[0] if len(self._captions) == FAR else frozenset[str]()
            row = _Row(self._num_rows, _overlap(caption, text), _overlap(other, text))
            self._window.append(row)
            self._captions.append(caption)
        if len(self._window) == WINDOW:
            self._judge(NUM_COLLAPSED)

    def close(self) -> int | None:
        """The row, counted from 1, from about which on texts and captions don't belong together."""
        if self._broken_at is None:
            if len(self._window) < MIN_ROWS:
                self._window = []
            if self._window or self._collapsed:
                self._judge(1)
        return self._broken_at

    def _judge(self, num_needed: int) -> None:
        typical = fmean(self._overlaps) if self._overlaps else 2 * MIN_OVERLAP
        own = median(row.own for row in self._window) if self._window else 0.0
        other = median(row.other for row in self._window) if self._window else 0.0
        if own < typical / 2 and own <= other + 0.05:
            self._collapsed += self._window
            if len(self._collapsed) > (num_needed - 1) * WINDOW:
                self._broken_at = _first_bad([*self._good, *self._collapsed], typical / 2)
        else:
            self._overlaps.append(own)
            self._good, self._collapsed = self._window, []
        self._window = []


class _Row(NamedTuple):
    number: int
    own: float
    """Overlap of the text with its own caption."""
    other: float
    """Overlap with a caption some rows before."""


def words(text: str) -> frozenset[str]:
    """The words of a text that tell it from others."""
    return frozenset(checks.plain(text).split()) - COMMON


def first_break(
    rows: Iterator[tuple[str, Sequence[str]]], names: Sequence[str]
) -> tuple[str, int] | None:
    """The first of the named files to break among `(caption, its text in each file)`, and where."""
    files = [Alignment() for _ in names]
    for caption, texts in rows:
        of_caption = words(caption)
        for file, text in zip(files, texts, strict=True):
            file.see(of_caption, words(text))
    found = [(at, name) for file, name in zip(files, names, strict=True) if (at := file.close())]
    return min(found)[::-1] if found else None


def _first_bad(rows: Sequence[_Row], limit: float) -> int:
    """The number of the row that best parts overlaps above the limit from those below."""
    gains = list(accumulate(row.own - limit for row in rows))
    best = max(range(len(rows)), key=gains.__getitem__)
    return rows[0].number if gains[best] <= 0 else rows[min(best + 1, len(rows) - 1)].number


def _overlap(caption: frozenset[str], text: frozenset[str]) -> float:
    """The share of the smaller's words that both have."""
    return len(caption & text) / max(1, min(len(caption), len(text)))
