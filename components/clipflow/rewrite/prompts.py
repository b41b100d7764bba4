"""Prompts: what makes a language model rewrite a caption in context, and how its answer is read.

    <instruction>
    <source> => <target>        three meta-pairs, all from one of four sources
    <caption> =>

Source: LaCLIP (Fan et al. 2023), section 3.1. The meta-pairs in `meta_pairs/` are our own, in the
manner of the paper's four sources: one line each, `source TAB target`; in `coco.tsv` five captions
of one scene, of which two different ones are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from clipflow.errors import GeneratorError

FOLDER = Path(__file__).with_name("meta_pairs")
SOURCES = ("chatgpt", "bard", "coco", "human")
NUM_EXAMPLES = 3
INSTRUCTION = "rewrite image captions differently,"
ARROW = "=>"


@dataclass(frozen=True)
class Prompt:
    """One caption with the examples drawn for it."""

    source: str
    """Which of `SOURCES` the examples are from."""
    examples: tuple[tuple[str, str], ...]
    caption: str
    """The caption on one line and without arrows, so that the last line holds exactly one."""
    is_cut: bool = False
    """True if the caption was too long for the model and lost its end."""

    @property
    def text(self) -> str:
        """What the model continues. It ends in the arrow, without a space after it."""
        examples = (f"{source} {ARROW} {target}" for source, target in self.examples)
        return "\n".join([INSTRUCTION, *examples, f"{self.caption} {ARROW}"])

    @property
    def provenance(self) -> str:
        """The source, with a note if the model didn't see the whole caption."""
        return f"{self.source}, caption cut" if self.is_cut else self.source


def draw(caption: str, index: int, seed: int) -> Prompt:
    """The prompt of a caption's rewrite number `index`: three meta-pairs of source `index` mod 4.

    They are drawn without replacement, each set equally likely; equal arguments draw equal pairs.
    """
    source = SOURCES[index % len(SOURCES)]
    rng = random.Random(f"{seed}/{index}")
    rows = rng.sample(meta_pairs(source), NUM_EXAMPLES)
    examples = (row if len(row) == 2 else rng.sample(row, 2) for row in rows)
    return Prompt(source, tuple((pair[0], pair[1]) for pair in examples), one_line(caption))


def fit(prompt: Prompt, num_tokens: Callable[[str], int], limit: int) -> Prompt:
    """The prompt in at most `limit` tokens, cut at the caption's end and never in the examples.

    Raises GeneratorError if not even the first word fits.
    """
    if num_tokens(prompt.text) <= limit:
        return prompt
    words = prompt.caption.split()
    low, high = 0, len(words)  # `low` words fit or none do; `high` words don't
    while high - low > 1:
        middle = (low + high) // 2
        if num_tokens(_cut(prompt, words, middle).text) <= limit:
            low = middle
        else:
            high = middle
    if low == 0:
        needed = num_tokens(_cut(prompt, words, 1).text)
        raise GeneratorError(
            f"the examples and one word of the caption take {needed} tokens, the model has room for"
            f" {limit}; choose a model with a longer context"
        )
    return _cut(prompt, words, low)


def parse(completion: str) -> str:
    """The rewrite in what a model wrote after the prompt's last arrow: up to the first newline."""
    return completion.partition("\n")[0].strip()


def one_line(caption: str) -> str:
    """The caption with single spaces, without newlines and arrows: either would end it early."""
    return " ".join(caption.replace(ARROW, " ").split())


@cache
def meta_pairs(source: str) -> tuple[tuple[str, ...], ...]:
    """The rows of one source's file: two texts each, or more that describe the same picture."""
    lines = (FOLDER / f"{source}.tsv").read_text(encoding="ascii").splitlines()
    return tuple(tuple(line.split("\t")) for line in lines)


def _cut(prompt: Prompt, words: list[str], num_words: int) -> Prompt:
    return replace(prompt, caption=" ".join(words[:num_words]), is_cut=True)
