"""Sentences of long captions, and the policy that draws them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from clipflow.recipes import shown
from clipflow.recipes._texts import sentences

LONG = (
    "A man rides a horse. Dr. Smith of St. Louis, 3.5 m away, waves! Is it late? yes\nTwo dogs run"
)
PARTS = [
    "A man rides a horse.", "Dr. Smith of St. Louis, 3.5 m away, waves!", "Is it late?", "Two dogs run",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG, PARTS),
        ("a dog on a sofa", ["a dog on a sofa"]),
        ('He says "come here." Then he goes.', ['He says "come here."', "Then he goes."]),
        ("Wait... what is it?! A cat...", ["what is it?!", "A cat..."]),
        ("1. a red car\n2. a blue car", ["a red car", "a blue car"]),
        ("a letter by J. R. R. Tolkien of W.", ["a letter by J. R. R. Tolkien of W."]),
        ("", []),
        ("car.", []),
        (" \n.\n", []),
        ("play dog . ball . two men", ["play dog .", "two men"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_nothing_but_space_and_single_words_is_lost() -> None:
    assert "".join("".join(PARTS).split()) == "".join(LONG.replace("yes", "").split())


def test_always_the_same_number_and_the_caption_first() -> None:
    for rewrites in ([], ["a dog"], [LONG], [LONG, "a dog"] * 3):
        for seed in range(20):
            texts = shown("sentences-4", "the caption", rewrites, random.Random(seed))
            assert len(texts) == 4
            assert texts[0] == "the caption"
    assert shown("sentences-4", "c", ["a dog"], random.Random(0)) == ["c", "a dog", "c", "c"]
    assert shown("sentences-1", "c", [LONG], random.Random(0)) == ["c"]


def test_drawn_evenly_and_without_putting_back() -> None:
    rng, counts = random.Random(0), Counter[str]()
    for _ in range(5000):
        _, *drawn = shown("sentences-3", "c", [LONG, "a dog"], rng)
        assert len(set(drawn)) == 2
        counts.update(drawn)
    assert set(counts) == {*PARTS, "a dog"}
    assert all(abs(n / 5000 - 2 / 5) < 0.03 for n in counts.values())


def test_any_recipe_takes_them_and_no_other_number_of_them(stage_params: Any) -> None:
    section = stage_params("pretrain", recipe="clip", texts="sentences-3")
    texts = section.texts_of("c", [LONG], random.Random(0))
    own = stage_params("pretrain", recipe="dreamlip")
    assert own.recipe.num_texts == 3
    assert texts == own.texts_of("c", [LONG], random.Random(0))
    for wrong in ("sentences", "sentences-0", "sentences-x"):
        with pytest.raises(Exception, match=r"pretrain\.texts"):
            stage_params("pretrain", recipe="clip", texts=wrong)
