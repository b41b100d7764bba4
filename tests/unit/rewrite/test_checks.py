import random
import re

import pytest

from clipflow.rewrite import checks, prompts
from clipflow.rewrite.checks import Original, plain

CAPTION = "A dog, running on the beach."


def outcome(candidate: str, caption: str = CAPTION, *, max_words: int = 8) -> str:
    accepted = {plain("dog at the sea")}
    return checks.outcome(
        candidate, plain(candidate), Original.of(caption), accepted, max_words=max_words
    )


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ("A puppy runs along the shore", "accepted"),
        ("", "empty"),
        (" .,!\n", "empty"),
        ("\u200b", "empty"),
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
def test_outcome(candidate: str, expected: str) -> None:
    assert outcome(candidate) == expected


def test_an_earlier_reason_wins() -> None:
    assert outcome("dog", "dog") == "too short"
    assert outcome("a b " * 9) == "too long"
    assert outcome("a dog => see \x07") == "control characters"


@pytest.mark.parametrize(
    "junk",
    ["\x00", "\n", "\x85", "\x9b", "\u202e", "\u2066", "\u200b", "\u2028", "\ufeff", "\u00ad", "\ufffd",
     "\ue000", "\U000e0041"],
)  # fmt: skip
def test_characters_that_are_not_seen_are_refused(junk: str) -> None:
    assert outcome(f"a puppy{junk} by the sea") == "control characters"


@pytest.mark.parametrize(
    "text",
    [
        "a puppy\u00a0by the sea",
        "\U0001f469\u200d\U0001f680 and a puppy",
        "a caf\u00e9 \u2013 by the sea",
    ],
)
def test_spaces_joined_emoji_and_accents_are_no_junk(text: str) -> None:
    assert outcome(text) == "accepted"


@pytest.mark.parametrize(
    "text",
    ["a dog, see https://a.b/c", "a dog at www.dogs", "dogs from dogs.com", "a dog (my-dogs.co.uk)",
     "ask dog@home.example now", "ftp://dogs here", "a dog on sand, shop.de."],
)  # fmt: skip
def test_addresses_are_refused(text: str) -> None:
    assert outcome(text) == "URL"


@pytest.mark.parametrize(
    "text", ["a dog at 5.30 p.m. today.", "the beach.It is wide", "a dog, e.g. a pug", "dog.com"]
)
def test_full_stops_are_no_addresses(text: str) -> None:
    assert outcome(text) == ("URL" if text == "dog.com" else "accepted")


@pytest.mark.parametrize(
    "text",
    [
        "As an AI, I see no dog",
        "I'm sorry, but I can\u2019t help with that",
        "I\u2019m sorry, I cannot do this",
        "Sorry, I have no image",
        "I cannot see any dog here",
        "I can't assist with that dog",
        "I am unable to provide that",
        "I apologize for the dog",
        "Unable to rewrite this caption",
        "I'm just a language model, no dog",
    ],
)
def test_refusals_are_refused(text: str) -> None:
    assert outcome(text) == "refusal"


@pytest.mark.parametrize(
    "text",
    ["I can't believe this dog", "a sorry dog on a beach", "a dog cannot swim here", "sorry dog!"],
)
def test_words_of_refusals_alone_are_none(text: str) -> None:
    assert outcome(text) == "accepted"


def test_every_text_of_the_prompts_is_an_echo() -> None:
    for text in prompts.texts():
        assert outcome(f"{text}!", max_words=99) == "prompt"


def test_a_long_piece_of_an_example_is_an_echo() -> None:
    caption = "A picture of a man flips a pancake in a restaurant"
    assert outcome("looking out of a window") == "prompt"
    assert outcome("out of a") == "accepted"
    assert outcome("man flips a pancake in a") == "prompt"
    assert outcome("man flips a pancake in a", caption) == "accepted"


@pytest.mark.parametrize(
    ("candidate", "caption", "expected"),
    [
        ("\u0441\u043e\u0431\u0430\u043a\u0430 on the beach", CAPTION, "other language"),
        ("\u4e00\u53ea\u72d7 \u5728\u6d77\u6ee9\u4e0a", CAPTION, "other language"),
        ("a dog \u0441\u043e\u0431\u0430\u043a\u0430", "the \u0441\u043e\u0431 dog", "accepted"),
        ("a dog on a beach", "\u4e00\u53ea\u72d7", "other language"),
        ("\u72d7 ABC \u6d77\u6ee9", "\u4e00\u53ea\u72d7", "accepted"),
        ("\u72ac\u304c \u6d77\u306b", "\u72ac \u6d77\u8fba", "accepted"),
        ("ein Hund auf dem Strand", CAPTION, "other language"),
        ("un chien est sur la plage", CAPTION, "other language"),
        ("un perro corre por la playa", CAPTION, "other language"),
        ("il cane che corre sulla spiaggia", CAPTION, "other language"),
        ("um cachorro na praia com pessoas", CAPTION, "other language"),
        ("een hond aan het strand", CAPTION, "other language"),
        ("ein Hund auf dem Strand", "ein Hund und der Strand", "accepted"),
        ("Las Vegas and Los Angeles on a map", CAPTION, "accepted"),
        ("dogs at Los Angeles with Las Palmas", "a dog in Los Angeles, Las Palmas", "accepted"),
        ("a dog on the beach: \U0001d41d\U0001d428\U0001d420", CAPTION, "accepted"),
    ],
)
def test_other_languages(candidate: str, caption: str, expected: str) -> None:
    assert outcome(candidate, caption) == expected


def test_repetition_is_what_its_pattern_says() -> None:
    said_again = re.compile(r"\b(\w+(?: \w+){0,2}) \1 \1\b|\b(\w+(?: \w+){3,}) \2\b")
    rng = random.Random(0)
    for _ in range(3000):
        words = rng.choices("abc", k=rng.randint(0, 14))
        expected = said_again.search(" ".join(words)) is not None
        assert checks.is_repetitive(words) is expected, words


def test_plain_keeps_words_of_any_language() -> None:
    assert plain("Caf\u00e9_au-lait!") == "caf\u00e9 au lait"


def test_plain_is_the_same_for_ascii_as_by_the_pattern() -> None:
    text = "".join(map(chr, range(128))) + " A_b-C  d.\te"
    assert plain(text) == checks.PUNCTUATION.sub(" ", text.lower()).strip()


@pytest.mark.parametrize(
    ("candidate", "caption", "expected"),
    [
        ("a pair of dogs", "2 dogs", []),
        ("2 dogs", "two dogs", []),
        ("some dogs", "two dogs", ["lost number"]),
        ("a dog and three cats", "1 dog and 3 cats", []),
        ("dogs and three cats", "1 dog and 3 cats", ["lost number"]),
        ("1000 dogs", "1,000 dogs", []),
        ("one of the dogs", "dogs, one of them big", []),
        ("a dog", "IMG_0042.jpg of a dog #12, 3d, 24576", []),
        ("a dog last year", "a dog in 1999", ["lost number"]),
        ("surf in Hawaii", "Big waves near Hawaii", []),
        ("surf by an island", "Big waves near Hawaii", ["lost name"]),
        ("the painter's house", "the house of Frida Kahlo, 2nd floor", ["lost name"]),
        ("big waves", "Surfers riding big waves", []),
        ("a bag", "Leather Handbag With Zipper", []),
        ("a bag", "LEATHER HANDBAG", []),
        ("a bag", "leather bag. Nice one", []),
        ("the tower", "London is grey. A tower in London", ["lost name"]),
        ("the queen walks", "walking with the Queen's dogs", []),
        ("a tower", "two views of Paris", ["lost number", "lost name"]),
    ],
)
def test_lost_facts(candidate: str, caption: str, expected: list[str]) -> None:
    assert checks.lost(candidate, plain(candidate), Original.of(caption)) == expected
