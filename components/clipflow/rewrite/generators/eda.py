"""eda: easy data augmentation, the paper's baseline of rewriting without a language model.

Source: Wei and Zou 2019, arXiv:1901.11196. The original takes synonyms from WordNet; here they come
from the thesaurus of this package, any one of a word's group alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from pydantic import Field

from clipflow.rewrite import english
from clipflow.rewrite.english import thesaurus
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task

Words = list[str]
Edit = Callable[[Words, float, random.Random], Words]


class EDA(Generator):
    """Rewrite i uses edit i mod 4: synonym replacement, random insertion, swap, deletion."""

    alpha: float = Field(gt=0, le=1)
    """Share of the words that an edit touches, at least one word; the paper advises 0.1."""

    is_cheap: ClassVar[bool] = True

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """One proposal per rewrite; where an edit finds nothing to do, the caption's words."""
        for task in tasks:
            rng = random.Random(task.seed)
            words = [w for w in english.tokenize(task.caption.lower()) if w[0].isalnum()]
            proposals = []
            for i in range(task.num):
                source, edit = EDITS[i % len(EDITS)]
                text = " ".join(edit(words, self.alpha, rng))
                proposals.append(Proposal(text, source))
            yield [Answer(task, proposals)]


def num_edits(words: Words, alpha: float) -> int:
    """N = max(1, alpha l). Source: section 2."""
    return max(1, int(alpha * len(words)))


def replace_synonyms(words: Words, alpha: float, rng: random.Random) -> Words:
    """N different words, drawn from those with a synonym, each replaced everywhere it stands."""
    known = thesaurus.load()
    candidates = sorted({word for word in words if known.synonyms(word)})
    drawn = rng.sample(candidates, min(num_edits(words, alpha), len(candidates)))
    replaced = {word: rng.choice(known.synonyms(word)) for word in drawn}
    return [replaced.get(word, word) for word in words]


def insert_synonyms(words: Words, alpha: float, rng: random.Random) -> Words:
    """N times a synonym of one of the caption's words, put in at any place."""
    known = thesaurus.load()
    candidates = [word for word in words if known.synonyms(word)]
    result = list(words)
    for _ in range(num_edits(words, alpha) if candidates else 0):
        synonym = rng.choice(known.synonyms(rng.choice(candidates)))
        result.insert(rng.randrange(len(result) + 1), synonym)
    return result


def swap_words(words: Words, alpha: float, rng: random.Random) -> Words:
    """N times two words at different places, exchanged."""
    result = list(words)
    for _ in range(num_edits(words, alpha) if len(words) > 1 else 0):
        i, j = rng.sample(range(len(result)), 2)
        result[i], result[j] = result[j], result[i]
    return result


def delete_words(words: Words, alpha: float, rng: random.Random) -> Words:
    """Each word left out with probability alpha; if none is left, one of them."""
    kept = [word for word in words if rng.random() >= alpha]
    return kept or [rng.choice(words)] if words else []


EDITS: tuple[tuple[str, Edit], ...] = (
    ("synonym replacement", replace_synonyms),
    ("random insertion", insert_synonyms),
    ("random swap", swap_words),
    ("random deletion", delete_words),
)
