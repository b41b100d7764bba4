"""Captions that are taken, and why others are not."""

from __future__ import annotations

import pytest

from clipflow.ingest.captions import CaptionRules, UnusableCaptionError, clean

NONE = dict.fromkeys(CaptionRules.model_fields)


def rules(**changes: object) -> CaptionRules:
    return CaptionRules.model_validate({**NONE, **changes})


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("  a\tred \n cat ", "a red cat"),
        ("a\x00 cat\x1b[31m", "a cat[31m"),
        ("right\u202eto left", "rightto left"),
        ("half \ud83d pair", "half pair"),
        ("два\u2028 слова", "два слова"),
        ("\U0001f468\u200d\U0001f469 family", "\U0001f468\u200d\U0001f469 family"),
        ("a &amp; b", "a &amp; b"),
    ],
)
def test_spaces_are_single_and_what_is_not_seen_goes(caption: str, expected: str) -> None:
    assert clean(caption, rules()) == expected


@pytest.mark.parametrize("caption", ["", " \n", "\x00\u200b"])
def test_empty(caption: str) -> None:
    with pytest.raises(UnusableCaptionError, match="empty caption"):
        clean(caption, rules())


@pytest.mark.parametrize(
    ("changes", "taken", "refused", "reason"),
    [
        ({"min_words": 2}, "two words", "one", "caption of too few words"),
        ({"max_words": 2}, "two words", "now three words", "caption of too many words"),
        ({"min_chars": 5}, "a cat", "cats", "caption too short"),
        ({"max_chars": 5}, "a cat", "a cat!", "caption too long"),
        ({"max_char_run": 3}, "wow!!!", "wow!!!!", "caption repeats a character"),
        ({"min_letter_share": 0.5}, "кот 12", "IMG_0042", "caption of too few letters"),
    ],
)
def test_rules(changes: dict[str, object], taken: str, refused: str, reason: str) -> None:
    assert clean(taken, rules(**changes)) == taken
    with pytest.raises(UnusableCaptionError, match=reason):
        clean(refused, rules(**changes))
