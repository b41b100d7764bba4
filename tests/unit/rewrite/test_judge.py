from clipflow.artifacts.rewrites import Candidate
from clipflow.rewrite.generators import Proposal
from clipflow.rewrite.generators.eda import EDA
from clipflow.rewrite.judge import Judge
from clipflow.rewrite.params import Params

CAPTION = "two dogs in Paris, seen from afar"


def judged(*proposals: Proposal, lost_facts: str = "flag") -> list[Candidate]:
    params = Params(
        generator=EDA(name="eda", alpha=0.1), num_rewrites=4, seed=0, max_words=9,
        lost_facts=lost_facts, agreement=None,
    )  # fmt: skip
    return Judge(params)(CAPTION, proposals)


def test_each_is_compared_with_those_accepted_before() -> None:
    texts = ["2 hounds in Paris", "two dogs in Paris, seen from afar!", "2 HOUNDS in Paris.", ""]
    found = judged(*(Proposal(text, "x") for text in texts))
    assert [c["outcome"] for c in found] == ["accepted", "copy", "duplicate", "empty"]
    assert [c["text"] for c in found] == texts
    assert not any("flags" in c for c in found)


def test_the_generators_own_problem_comes_first() -> None:
    (found,) = judged(Proposal("2 hounds in Paris", "x", "cut off"))
    assert found == {"text": "2 hounds in Paris", "source": "x", "outcome": "cut off"}


def test_lost_facts_are_kept_flagged_or_dropped() -> None:
    proposals = (Proposal("some dogs in a city", "x"), Proposal("some dogs in a city", "x"))
    (kept, _) = judged(*proposals, lost_facts="keep")
    assert (kept["outcome"], "flags" in kept) == ("accepted", False)
    (flagged, again) = judged(*proposals)
    assert (flagged["outcome"], flagged["flags"]) == ("accepted", ["lost number", "lost name"])
    assert again["outcome"] == "duplicate"
    (dropped, again) = judged(*proposals, lost_facts="drop")
    assert dropped["outcome"] == again["outcome"] == "lost number"
    assert "flags" not in dropped


def test_what_no_file_can_hold_is_made_writable() -> None:
    (found,) = judged(Proposal("a dog \ud83d", "x"))
    assert found == {"text": "a dog ?", "source": "x", "outcome": "control characters"}
