"""grammar: a paraphraser by rule, without a model. The default of the demo.

It stands in for an LLM where none is at hand: it knows a thesaurus, a few constructions and nothing
of the world, so its rewrites say the caption's content in other, mostly plainer words and add
nothing. Use a language model (`hf`) for rewrites of the kind that the paper trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import ClassVar

from pydantic import Field

from clipflow.rewrite import english
from clipflow.rewrite.checks import plain
from clipflow.rewrite.english import clauses, cleaning, frames, thesaurus
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task

DRAWS_PER_REWRITE = 8
"""Draws that come out like an earlier one are repeated, up to this many per rewrite asked for."""

NOT_NEW = english.DETERMINERS - {"a", "an"}
"""`There is` goes with what is new: `there is a dog`, but not `there is the dog`."""


class Grammar(Generator):
    """Cleans a caption of what does not describe, then draws order, counts, synonyms and a frame.

    Source of the idea, not of the rules: LaCLIP, section 3.1.
    """

    synonym: float = Field(ge=0, le=1)
    """Chance that a known word is drawn anew from its group of synonyms."""
    relation: float = Field(ge=0, le=1)
    """The same for spatial relations (`next to`, `beside`)."""
    count: float = Field(ge=0, le=1)
    """The same for counts (`two`, `2`, `a couple of`)."""
    order: float = Field(ge=0, le=1)
    """Chance of another word order, where one applies."""
    frame: float = Field(ge=0, le=1)
    """Chance of a frame around the caption (`this picture shows ...`)."""
    common_weight: int = Field(ge=1)
    """How many times likelier the commonest word of a group is drawn than each of the others.

    1 draws uniformly. Above 1 rare words mostly give way to the common one and common ones mostly
    stay, as in an LLM's paraphrases.
    """

    is_cheap: ClassVar[bool] = True

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """Paraphrases that are all different: fewer than asked for if the rules find no more."""
        for task in tasks:
            rng = random.Random(task.seed)
            paraphraser = _Paraphraser(self, task.caption)
            seen = {plain(task.caption)}
            proposals: list[Proposal] = []
            for _ in range(DRAWS_PER_REWRITE * task.num):
                if len(proposals) == task.num:
                    break
                text, operations = paraphraser.draw(rng)
                if plain(text) not in seen:
                    seen.add(plain(text))
                    proposals.append(Proposal(text, "+".join(operations)))
            yield [Answer(task, proposals)]


class _Paraphraser:
    """One caption, analysed once and drawn from several times."""

    def __init__(self, grammar: Grammar, caption: str) -> None:
        self.grammar = grammar
        self.thesaurus = thesaurus.load()
        self.chances = {"relation": grammar.relation, "count": grammar.count}
        cleaned = cleaning.clean(caption)
        self.is_cleaned = plain(cleaned) != plain(caption)
        tokens = english.tokenize(frames.unframe(cleaned))
        self.plain_order = _Variant("", tokens, self.thesaurus)
        self.orders = [
            _Variant(name, reordered, self.thesaurus)
            for name, order in clauses.ORDERS.items()
            if (reordered := order(tokens, self.thesaurus)) is not None
        ]

    def draw(self, rng: random.Random) -> tuple[str, list[str]]:
        """One paraphrase and the names of the operations that made it."""
        variant, operations = self.plain_order, ["clean"] if self.is_cleaned else []
        if self.orders and rng.random() < self.grammar.order:
            variant = self.orders[int(rng.random() * len(self.orders))]
            operations.append(variant.name)
        tokens, renamed = self._renamed(variant, rng)
        operations += renamed
        if tokens and rng.random() < self.grammar.frame and tokens[0] not in clauses.LOCATIVES:
            tokens = self._framed(tokens, rng)
            operations.append("frame")
        text = english.join(english.with_articles(list(tokens)))
        return text[:1].upper() + text[1:], operations

    def _renamed(self, variant: _Variant, rng: random.Random) -> tuple[list[str], list[str]]:
        """The tokens with known words drawn anew, and the kinds of change that came of it."""
        renamed: list[str] = []
        operations: list[str] = []
        done = 0
        for match in variant.matches:
            kind = match.group.kind if match.group.kind in self.chances else "synonym"
            if rng.random() >= self.chances.get(kind, self.grammar.synonym):
                continue
            word = _drawn(match.group.members, self.grammar.common_weight, rng)
            if word != match.form:
                renamed += [*variant.tokens[done : match.start], *word.split()]
                done = match.end
                if kind not in operations:
                    operations.append(kind)
        return renamed + variant.tokens[done:], operations

    def _framed(self, tokens: list[str], rng: random.Random) -> list[str]:
        if clauses.is_sentence(tokens, self.thesaurus):
            choices: tuple[str, ...] = frames.SENTENCE_FRAMES
        else:
            tokens = clauses.with_determiner(tokens, self.thesaurus)
            choices = frames.CLOSED_FRAMES if "," in tokens else frames.PHRASE_FRAMES
            if tokens[0] not in NOT_NEW and tokens[0].islower():
                choices += frames.EXISTENTIAL_FRAMES
        before, _, after = choices[int(rng.random() * len(choices))].partition("{}")
        if "{be}" in before:
            before = before.format(be=clauses.be(tokens, self.thesaurus))
        return [*english.tokenize(before), *tokens, *after.split()]


class _Variant:
    """One order of a caption's words, with what the thesaurus knows of them."""

    def __init__(self, name: str, tokens: list[str], known: thesaurus.Thesaurus) -> None:
        self.name = name
        self.tokens = tokens
        self.matches = [m for m in known.matches(tokens) if len(m.group.members) > 1]


def _drawn(members: tuple[str, ...], common_weight: int, rng: random.Random) -> str:
    draw = int(rng.random() * (common_weight + len(members) - 1))
    return members[max(0, draw - common_weight + 1)]
