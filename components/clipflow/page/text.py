"""Texts as a page shows them."""

from __future__ import annotations

import unicodedata

JUNK = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode's categories of characters that are not seen, or end a line."""
JOINERS = "\u200c\u200d"
"""They are not seen either, but Persian, the scripts of India and emoji are written with them."""
REPLACEMENT = "\ufffd"
"""What is left of a character that was decoded wrongly."""
MAX_CHARACTERS = 240
"""Longer texts are shown up to here."""


def visible(text: str) -> str:
    """The text on one line and not too long, with characters that aren't seen as `<U+202E>`."""
    shown = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "\u2026"
    return "".join(
        f"<U+{ord(c):04X}>"
        if (unicodedata.category(c) in JUNK and c not in JOINERS) or c == REPLACEMENT
        else c
        for c in shown
    )
