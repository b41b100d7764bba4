import re

import pytest

from clipflow.rewrite import checks
from clipflow.rewrite.desk import seed_of
from clipflow.rewrite.english import thesaurus
from clipflow.rewrite.generators import Proposal, Task
from clipflow.rewrite.generators.grammar import Grammar
from clipflow.rewrite.judge import Judge
from clipflow.rewrite.params import Params

OFF = {"synonym": 0.0, "relation": 0.0, "count": 0.0, "order": 0.0, "frame": 0.0}


def grammar(common_weight: int = 3, **chances: float) -> Grammar:
    return Grammar(name="grammar", common_weight=common_weight, **{**OFF, **chances})


ALL = grammar(synonym=0.7, relation=0.7, count=0.7, order=0.4, frame=0.5)


def propose(generator: Grammar, caption: str, n: int = 4, seed: int = 0) -> list[Proposal]:
    (((_, proposals, *_),),) = generator.propose([Task(caption, 0, n, seed)])
    return proposals


def test_four_of_four_are_accepted_for_most_captions(captions: list[str]) -> None:
    tasks = [Task(caption, 0, 4, seed_of(0, caption)) for caption in captions]
    judge = Judge(
        Params(
            generator=ALL, num_rewrites=4, seed=0, max_words=60, lost_facts="flag", agreement=None
        )
    )
    accepted = [
        sum(c["outcome"] == checks.ACCEPTED for c in judge(answer.task.caption, answer.proposals))
        for (answer,) in ALL.propose(tasks)
    ]
    assert sum(accepted) >= 0.95 * 4 * len(captions)


def test_equal_seeds_give_equal_rewrites_and_others_differ() -> None:
    caption = "a black dog running on the beach next to a small boat"
    assert propose(ALL, caption) == propose(ALL, caption)
    assert propose(ALL, caption) != propose(ALL, caption, seed=1)


def test_a_caption_does_not_depend_on_its_neighbours() -> None:
    one, two = Task("a dog on a bed", 0, 4, 1), Task("two cats", 0, 4, 2)
    assert list(ALL.propose([one, two])) == [
        *ALL.propose([one]),
        *ALL.propose([two]),
    ]


def test_boilerplate_goes() -> None:
    for proposal in propose(ALL, "Red Wool Hat SKU-12345 | buy now | stock photo", n=8):
        assert not re.search(r"sku|12345|buy|stock", proposal.text, re.IGNORECASE)
        assert proposal.source.startswith("clean")


def test_the_number_is_preserved() -> None:
    said = re.compile(r"\b(?:3|three|a trio of)\b", re.IGNORECASE)
    texts = [p.text for seed in range(20) for p in propose(ALL, "three dogs on 1 bed", seed=seed)]
    assert all(said.search(text) for text in texts)
    assert len({match.group().lower() for t in texts if (match := said.search(t))}) == 3


def test_synonyms_come_from_the_thesaurus() -> None:
    known = thesaurus.load()
    for proposal in propose(grammar(synonym=1.0), "big dog", n=6):
        size, _, animal = proposal.text.lower().partition(" ")
        assert size == "big" or size in known.synonyms("big")
        assert animal == "dog" or animal in known.synonyms("dog")
        assert proposal.source == "synonym"


def test_the_common_word_is_drawn_as_often_as_its_weight_says() -> None:
    """Of `couch`: sofa 3, couch 1, settee 1; `couch` is no rewrite, so sofa comes in 3 of 4."""
    generator = grammar(synonym=1.0)
    texts = [propose(generator, "the couch", n=1, seed=s)[0].text for s in range(800)]
    assert set(texts) == {"The sofa", "The settee"}
    assert texts.count("The sofa") == pytest.approx(600, abs=60)


def test_left_and_right_are_not_confused() -> None:
    texts = [
        proposal.text.lower()
        for seed in range(20)
        for proposal in propose(grammar(relation=1.0, order=0.5), "a cup left of a fork", seed=seed)
    ]
    for text in texts:
        cup_first = text.index("cup") < text.index("fork")
        assert ("left" in text) is cup_first
        assert ("right" in text) is not cup_first


@pytest.mark.parametrize(
    ("caption", "pattern"),
    [
        ("a red dog", r".*\ba red dog\b.*"),
        ("orange sky", r".*orange sky.*"),
        ("A dog runs home", r".+ a dog runs home"),
        ("cat on a bed", r".*\ba cat on a bed\b.*"),
    ],
)
def test_frames_hold_the_caption(caption: str, pattern: str) -> None:
    proposals = propose(grammar(frame=1.0), caption)
    assert len(proposals) == 4
    assert all(re.fullmatch(pattern, p.text, re.IGNORECASE) for p in proposals)
    assert {p.source for p in proposals} == {"frame"}


def test_articles_fit_what_follows() -> None:
    texts = [p.text for p in propose(grammar(synonym=1.0), "a couple with a plane", n=4)]
    assert any(re.search(r"with an a(?:ir|er)", text) for text in texts)
    assert not any(re.search(r"\ba a|\ban p", text) for text in texts)


def test_a_caption_without_content_gives_nothing() -> None:
    assert propose(ALL, "") == []


def test_nothing_to_change_gives_nothing() -> None:
    assert propose(grammar(), "qwerty uiop") == []
