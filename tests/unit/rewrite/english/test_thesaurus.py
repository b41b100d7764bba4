import pytest

from clipflow.errors import ArtifactError
from clipflow.rewrite import english
from clipflow.rewrite.english import thesaurus
from clipflow.rewrite.english.thesaurus import Group, Thesaurus

SMALL = Thesaurus(
    [
        Group("noun", ("dog", "hound")),
        Group("noun", ("box", "flower box")),
        Group("noun", ("man", "guy")),
        Group("verb", ("sit", "rest")),
        Group("verb", ("look at", "gaze at")),
        Group("plural", ("pants", "trousers")),
        Group("relation", ("next to", "beside")),
    ]
)


def test_the_file_holds_many_groups_in_lower_case() -> None:
    groups = thesaurus.read(thesaurus.FILE)
    assert sum(len(group.members) > 1 for group in groups) >= 350
    for group in groups:
        for member in group.members:
            assert member == " ".join(member.lower().split())


def test_no_form_of_the_file_is_in_two_groups() -> None:
    thesaurus.load()  # raises otherwise
    with pytest.raises(ArtifactError, match="'hound' is in two groups, with 'dog' and with 'cat'"):
        Thesaurus([Group("noun", ("dog", "hound")), Group("noun", ("cat", "hound"))])


def test_synonyms_keep_the_form() -> None:
    assert SMALL.synonyms("dog") == ("hound",)
    assert SMALL.synonyms("hounds") == ("dogs",)
    assert SMALL.synonyms("men") == ("guys",)
    assert SMALL.synonyms("boxes") == ("flower boxes",)
    assert SMALL.synonyms("sitting") == ("resting",)
    assert SMALL.synonyms("rests") == ("sits",)
    assert SMALL.synonyms("looking at") == ("gazing at",)
    assert SMALL.synonyms("a pair of pants") == ("a pair of trousers",)
    assert SMALL.synonyms("sit") == ()
    assert SMALL.synonyms("unknown") == ()


def test_matches_take_the_longest_phrase() -> None:
    tokens = ["the", "dog", "next", "to", "the", "flower", "box", "looking", "at", "men"]
    found = [(m.start, m.end, m.form) for m in SMALL.matches(tokens)]
    assert found == [
        (1, 2, "dog"),
        (2, 4, "next to"),
        (5, 7, "flower box"),
        (7, 9, "looking at"),
        (9, 10, "men"),
    ]


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("dog", "dogs"),
        ("box", "boxes"),
        ("bench", "benches"),
        ("city", "cities"),
        ("toy", "toys"),
        ("leaf", "leaves"),
        ("fireman", "firemen"),
        ("human", "humans"),
        ("sheep", "sheep"),
        ("wine glass", "wine glasses"),
        ("flight of stairs", "flights of stairs"),
        ("potato", "potatoes"),
        ("piano", "pianos"),
    ],
)
def test_plural(noun: str, plural: str) -> None:
    assert english.plural(noun) == plural


@pytest.mark.parametrize(
    ("verb", "third_person", "participle"),
    [
        ("sit", "sits", "sitting"),
        ("ride", "rides", "riding"),
        ("lie", "lies", "lying"),
        ("carry", "carries", "carrying"),
        ("watch", "watches", "watching"),
        ("look at", "looks at", "looking at"),
    ],
)
def test_verb_forms(verb: str, third_person: str, participle: str) -> None:
    assert (english.finite(verb), english.participle(verb)) == (third_person, participle)


@pytest.mark.parametrize(
    ("word", "article"),
    [
        ("dog", "a"),
        ("apple", "an"),
        ("hour", "an"),
        ("house", "a"),
        ("unicorn", "a"),
        ("umbrella", "an"),
        ("uninteresting", "an"),
        ("one-eyed", "a"),
        ("8", "an"),
        ("9", "a"),
    ],
)
def test_article(word: str, article: str) -> None:
    assert english.article(word) == article


def test_tokens_join_back() -> None:
    text = "a t-shirt (red), women's; 5-year-old boy"
    assert english.join(english.tokenize(text)) == text
