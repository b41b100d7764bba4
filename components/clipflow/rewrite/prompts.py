"""Prompts: what makes a language model rewrite a caption in context, and how its answer is read.

    <instruction>
    <source> => <target>        three meta-pairs, all from one of four sources
    <caption> =>

Source: LaCLIP (Fan et al. 2023), section 3.1. The meta-pairs in `meta_pairs/` are our own, in the
manner of the paper's four sources: one line each, `source TAB target`; in `coco.tsv` five captions
of one scene, of which two different ones are drawn.

The text before the caption is a *block*. Drawn anew for each caption, as in the paper, no two captions
share one; dealt out from a number of blocks, each as likely, a model reads a block once for many captions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from clipflow.errors import GeneratorError

FOLDER = Path(__file__).with_name("meta_pairs")
SOURCES = ("chatgpt", "bard", "coco", "human")
NUM_EXAMPLES = 3
INSTRUCTION = "rewrite image captions differently,"
ARROW = "=>"
CHAT_INSTRUCTION = (
    "You rewrite image captions. Say the caption that you are given in other words. Keep every fact, number"
    " and name; add nothing. Answer with the new caption alone, on one line."
)
"""What models that take instructions are told before the examples."""
IMAGE_INSTRUCTION = (
    "Describe this image in one sentence, as a caption would. Say only what can be seen. Answer with the"
    " caption alone, on one line."
)
"""What models that see are told."""


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
        return f"{_beginning(self.examples)}{self.caption} {ARROW}"

    @property
    def provenance(self) -> str:
        """The source, with a note if the model didn't see the whole caption."""
        return f"{self.source}, caption cut" if self.is_cut else self.source


def draw(caption: str, index: int, seed: int, num_blocks: int | None = None) -> Prompt:
    """The prompt of a caption's rewrite number `index`: three meta-pairs of source `index` mod 4.

    They are drawn without replacement, each set equally likely, or dealt from `num_blocks` such sets, each
    equally likely. Equal arguments draw equal pairs.
    """
    source = SOURCES[index % len(SOURCES)]
    if num_blocks is None:
        examples = _examples(source, f"{seed}/{index}")
    else:
        examples = _block(source, dealt(seed, index) % num_blocks)
    return Prompt(source, examples, one_line(caption))


def dealt(seed: int, index: int) -> int:
    """24 bits that differ from one index to the next; much cheaper than a generator of random numbers."""
    mixed = (seed ^ (index + 1) * 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9
    return mixed >> 40 & (1 << 24) - 1


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


@lru_cache(maxsize=4096)
def _beginning(examples: tuple[tuple[str, str], ...]) -> str:
    lines = (f"{source} {ARROW} {target}\n" for source, target in examples)
    return f"{INSTRUCTION}\n{''.join(lines)}"


@cache
def _block(source: str, number: int) -> tuple[tuple[str, str], ...]:
    return _examples(source, f"block {number}")


def _examples(source: str, seed: str) -> tuple[tuple[str, str], ...]:
    rng = random.Random(f"{source}/{seed}")
    rows = rng.sample(meta_pairs(source), NUM_EXAMPLES)
    examples = (row if len(row) == 2 else rng.sample(row, 2) for row in rows)
    return tuple((pair[0], pair[1]) for pair in examples)


@cache
def meta_pairs(source: str) -> tuple[tuple[str, ...], ...]:
    """The rows of one source's file: two texts each, or more that describe the same picture."""
    lines = (FOLDER / f"{source}.tsv").read_text(encoding="ascii").splitlines()
    return tuple(tuple(line.split("\t")) for line in lines)


def texts() -> Iterator[str]:
    """Every text that prompts show, but captions; a model that gives one back has rewritten nothing."""
    yield from (INSTRUCTION, CHAT_INSTRUCTION, IMAGE_INSTRUCTION)
    for source in SOURCES:
        for row in meta_pairs(source):
            yield from row


def _cut(prompt: Prompt, words: list[str], num_words: int) -> Prompt:
    return replace(prompt, caption=" ".join(words[:num_words]), is_cut=True)
