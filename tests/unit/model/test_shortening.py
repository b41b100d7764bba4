"""Texts cut to fewer tokens keep their marks, and words in their order."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from clipflow.model.shortening import Shortening, shortened

START, END = 100, 200
TEXT = [START, *range(1, 11), END]


@pytest.mark.parametrize("how", ["truncate", "block", "random"])
def test_marks_and_order_are_kept(how: Shortening) -> None:
    rng = random.Random(0)
    for _ in range(100):
        ids = shortened(TEXT, 6, how, rng)
        assert len(ids) == 6
        assert (ids[0], ids[-1]) == (START, END)
        assert ids[1:-1] == sorted(set(ids[1:-1]))


@pytest.mark.parametrize("how", ["truncate", "block", "random"])
def test_a_text_with_room_is_left_as_it_is_and_draws_nothing(how: Shortening) -> None:
    rng = random.Random(0)
    before = rng.getstate()
    assert shortened(TEXT, 12, how, rng) == TEXT
    assert shortened([START, END], 3, how, rng) == [START, END]
    assert rng.getstate() == before


def test_truncation_keeps_the_first_words() -> None:
    assert shortened(TEXT, 6, "truncate", random.Random(0)) == [START, 1, 2, 3, 4, END]


def test_a_block_is_a_run_that_begins_anywhere() -> None:
    rng = random.Random(0)
    firsts = Counter()
    for _ in range(7000):
        words = shortened(TEXT, 6, "block", rng)[1:-1]
        assert words == list(range(words[0], words[0] + 4))
        firsts[words[0]] += 1
    assert sorted(firsts) == list(range(1, 8))
    assert all(850 < count < 1150 for count in firsts.values())


def test_random_words_are_any_as_often() -> None:
    rng = random.Random(0)
    words = Counter(word for _ in range(5000) for word in shortened(TEXT, 6, "random", rng)[1:-1])
    assert sorted(words) == list(range(1, 11))
    assert all(1850 < count < 2150 for count in words.values())
