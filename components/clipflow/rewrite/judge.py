"""The judge: every proposal becomes a candidate with its outcome."""

from __future__ import annotations

from collections.abc import Iterable

from clipflow.artifacts.rewrites import ACCEPTED, Candidate
from clipflow.rewrite import checks
from clipflow.rewrite.generators import Proposal
from clipflow.rewrite.params import Params


class Judge:
    """Judges by a run's params. Called with a caption and what was proposed for it, in order."""

    def __init__(self, params: Params) -> None:
        self.max_words, self.lost_facts = params.max_words, params.lost_facts

    def __call__(self, caption: str, proposals: Iterable[Proposal]) -> list[Candidate]:
        """Every proposal with its outcome; each is compared with those accepted before it."""
        original = checks.Original.of(caption)
        accepted: set[str] = set()
        candidates: list[Candidate] = []
        for text, source, problem in proposals:
            same, flags = checks.plain(text), list[str]()
            outcome = problem or checks.outcome(
                text, same, original, accepted, max_words=self.max_words
            )
            if outcome == ACCEPTED and self.lost_facts != "keep":
                flags = checks.lost(text, same, original)
                if flags and self.lost_facts == "drop":
                    outcome, flags = flags[0], []
            if outcome == ACCEPTED:
                accepted.add(same)
            candidate: Candidate = {"text": writable(text), "source": source, "outcome": outcome}
            if flags:
                candidate["flags"] = flags
            candidates.append(candidate)
        return candidates


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which no file can hold, as question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()
