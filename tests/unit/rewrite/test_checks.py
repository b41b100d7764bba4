import pytest

from clipflow.rewrite import checks

CAPTION = "A dog, running on the beach."


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        ("A puppy runs along the shore", "accepted"),
        ("", "empty"),
        (" .,!\n", "empty"),
        ("dog", "too short"),
        ("dog !", "too short"),
        ("a dog", "accepted"),
        ("a dog running on the beach", "copy"),
        ("A  DOG running - on the beach!", "copy"),
        ("Dog at the sea.", "duplicate"),
        ("a dog => a hound", "prompt"),
        ("rewrite image captions differently, a dog", "prompt"),
        ("Sure! Here is a rewrite: a dog on sand", "prompt"),
        ("Caption: a dog on sand", "prompt"),
        ("Here is a dog on sand", "accepted"),
        ("one two three four five six seven eight", "accepted"),
        ("one two three four five six seven eight nine", "too long"),
        ("a very very big dog", "accepted"),
        ("a big big big dog", "repeated tokens"),
        ("a dog a dog a dog", "repeated tokens"),
        ("a dog a dog ran", "accepted"),
        ("on a wide beach on a wide beach", "repeated tokens"),
    ],
)
def test_outcome(candidate: str, outcome: str) -> None:
    assert checks.outcome(candidate, CAPTION, ["dog at the sea"], max_words=8) == outcome


def test_an_earlier_reason_wins() -> None:
    assert checks.outcome("dog", "dog", ["dog"], max_words=8) == "too short"
    assert checks.outcome("a b " * 9, CAPTION, [], max_words=8) == "too long"


def test_plain_keeps_words_of_any_language() -> None:
    assert checks.plain("Caf\u00e9_au-lait!") == "caf\u00e9 au lait"
