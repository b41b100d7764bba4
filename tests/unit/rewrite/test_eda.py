import random

import pytest

from clipflow.rewrite.english import thesaurus
from clipflow.rewrite.generators import Task, eda

WORDS = ["qq", "big", "dog", "qq", "ww", "big"]  # two known words, `big` twice


@pytest.mark.parametrize(
    ("num_words", "alpha", "expected"), [(3, 0.1, 1), (10, 0.1, 1), (20, 0.1, 2), (10, 0.5, 5)]
)
def test_num_edits(num_words: int, alpha: float, expected: int) -> None:
    assert eda.num_edits(["w"] * num_words, alpha) == expected


def test_replacement_changes_n_words_everywhere() -> None:
    known = thesaurus.load()
    for seed in range(30):
        result = eda.replace_synonyms(WORDS, 0.1, random.Random(seed))
        size, animal = result[1], result[2]
        assert result == ["qq", size, animal, "qq", "ww", size]
        assert (size == "big") != (animal == "dog")
        assert size == "big" or size in known.synonyms("big")
        assert animal == "dog" or animal in known.synonyms("dog")


def test_insertion_adds_n_synonyms_and_keeps_the_order() -> None:
    known = thesaurus.load()
    synonyms = {*known.synonyms("big"), *known.synonyms("dog")}
    for seed in range(30):
        result = eda.insert_synonyms(WORDS, 0.4, random.Random(seed))
        assert len(result) == len(WORDS) + 2
        assert [word for word in result if word not in synonyms] == WORDS


def test_swap_exchanges_two_places() -> None:
    words = list("abcdefgh")
    for seed in range(30):
        result = eda.swap_words(words, 0.1, random.Random(seed))
        assert sorted(result) == words
        assert sum(a != b for a, b in zip(result, words, strict=True)) == 2


def test_deletion_leaves_out_a_share() -> None:
    words = [str(i) for i in range(10_000)]
    kept = eda.delete_words(words, 0.1, random.Random(0))
    assert len(kept) == pytest.approx(9000, abs=150)
    assert [int(word) for word in kept] == sorted(map(int, set(kept)))


def test_deletion_leaves_one_word() -> None:
    assert eda.delete_words(["a", "b"], 1.0, random.Random(0)) in (["a"], ["b"])


def test_no_edit_changes_its_input_or_fails_on_little() -> None:
    for _, edit in eda.EDITS:
        for words in ([], ["qq"], list(WORDS)):
            before = list(words)
            edit(words, 0.9, random.Random(0))
            assert words == before


def test_rewrite_i_uses_edit_i_mod_4_and_is_seeded() -> None:
    generator = eda.EDA(name="eda", alpha=0.1)
    task = Task("A big dog on the beach.", 0, 5, 3)
    (((_, first, *_),),) = generator.propose([task])
    (((_, again, *_),),) = generator.propose([task])
    assert first == again
    assert [p.source for p in first] == [
        "synonym replacement",
        "random insertion",
        "random swap",
        "random deletion",
        "synonym replacement",
    ]
