import pytest

from clipflow.rewrite.english import clauses, thesaurus

CASES = {
    "swap": [
        ("a cup next to a lamp", "a lamp next to a cup"),
        ("a cup beside two lamps", "two lamps next to a cup"),
        ("a box on top of a table", "a table below a box"),
        ("the bed is to the left of the lamps", "the lamps are to the right of the bed"),
        ("a dog in front of a house", "a house behind a dog"),
        ("a dog and a cat", "a cat and a dog"),
        ("dogs and cats", "cats and dogs"),
        ("a red and white flag", None),
        ("a dog in a car next to a house", None),
        ("a dog running behind a car", None),
    ],
    "attribute": [
        ("a red hat on a table", "a hat that is red on a table"),
        ("two red hats", "two hats that are red"),
        ("a red wool hat", "a hat made of red wool"),
        ("small dark blue car", "small car that is dark blue"),
        ("a red car door", None),
        ("a red and white hat", None),
        ("a black dog running", None),
    ],
    "front": [
        ("a dog runs on the beach", "on the beach , a dog runs"),
        ("a dog running on the beach", "on the beach , a dog is running"),
        ("two dogs running on the beach", "on the beach , two dogs are running"),
        ("cup on a table", "on a table there is a cup"),
        ("a man in a hat", None),
        ("man looking at the sea", None),
        ("a dog with a ball", None),
    ],
    "clause": [
        ("a dog running home", "a dog is running home"),
        ("dog running home", "a dog is running home"),
        ("three dogs running", "three dogs are running"),
        ("a dog is running", "a dog running"),
        ("a dog on a bed", None),
    ],
}


@pytest.mark.parametrize(
    ("order", "caption", "expected"),
    [(order, *case) for order, cases in CASES.items() for case in cases],
)
def test_order(order: str, caption: str, expected: str | None) -> None:
    tokens = clauses.ORDERS[order](caption.split(), thesaurus.load())
    assert (tokens and " ".join(tokens)) == expected


@pytest.mark.parametrize(
    ("caption", "is_sentence"),
    [
        ("a dog runs on the beach", True),
        ("a dog is on the beach", True),
        ("two dogs run on the beach", True),
        ("a dog running on the beach", False),
        ("a hat that is red", False),
        ("evening run in a park", False),
    ],
)
def test_is_sentence(caption: str, is_sentence: bool) -> None:
    assert clauses.is_sentence(caption.split(), thesaurus.load()) is is_sentence
