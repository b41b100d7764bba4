"""The same ids as open_clip's tokenizer, on everything that people write."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from clipflow import rewrite
from clipflow.model.texts import grouped
from clipflow.model.tokens import Tokenizer

ODD = [
    "", " ", "!", "a", "A&amp;B &lt;b&gt;", "caf\u00e9 na\u00efve", "sch\u00c3\u00b6n",
    "\u201cquoted\u201d it\u2019s", "IT'S We'Re", "tab\tnew\nline\r", "bell\x07 esc\x1b[31m",
    "\u4e2d\u6587 \U0001f600\U0001f680", "x" * 500, "word " * 300, "<start_of_text> a <end_of_text>",
    "<START_OF_TEXT>", "3.14 2024-11-24 #1", "a  b", "\u0130stanbul \u017f", "e\u0301", "\u00a0nbsp",
    "under_score", "&notanentity", "\ufb01ne",
]  # fmt: skip


def corpus() -> list[str]:
    """Real texts of the package, mixtures of their words, and characters at random."""
    folder = Path(rewrite.__path__[0])
    lines = [
        line for f in sorted(folder.rglob("*.t[sx][vt]")) for line in f.read_text().splitlines()
    ]
    words, rng = " ".join(lines).split(), random.Random(0)
    mixed = [" ".join(rng.choices(words, k=rng.randint(1, 40))).title() for _ in range(3000)]
    alphabet = [chr(n) for n in range(32, 127)] + [
        chr(rng.randint(128, 0x2FFF)) for _ in range(200)
    ]
    noise = ["".join(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(1500)]
    plain = ["".join(rng.choices(alphabet[:95], k=rng.randint(0, 60))) for _ in range(1500)]
    return [*lines, *mixed, *noise, *plain, *ODD]


def test_same_ids_as_open_clip() -> None:
    theirs, texts = open_clip.get_tokenizer("ViT-B-32"), corpus()
    assert len(texts) > 6000
    ours = Tokenizer(theirs)
    assert ours.is_clips
    for first in range(0, len(texts), 512):
        some = texts[first : first + 512]
        assert torch.equal(ours(some), theirs(some))


def test_known_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipflow.model.tokens.MAX_KNOWN_WORDS", 2)
    ours, theirs = Tokenizer(SimpleTokenizer()), SimpleTokenizer()
    texts = ["one two three four", "three two"]
    assert torch.equal(ours(texts), theirs(texts))
    assert len(ours._known) <= 2


@pytest.mark.parametrize(
    "choice", [{"clean": "canonicalize"}, {"reduction_mask": "simple"}], ids=str
)
def test_other_tokenizers_are_used_as_they_are(choice: dict[str, Any]) -> None:
    ours = Tokenizer(SimpleTokenizer(**choice))
    assert not ours.is_clips
    assert torch.equal(ours(["a, b!"]), SimpleTokenizer(**choice)(["a, b!"]))


def test_groups_leave_out_padding_alone() -> None:
    """Every text once, in its place, whole; 64 tokens of 4 groups instead of 40 x 77."""
    texts = [f"{'word ' * (n % 10)}number" for n in range(80)]
    tokens = Tokenizer(SimpleTokenizer())(texts).view(40, 2, 77)
    made = grouped(tokens, trims=True)
    assert [len(group) for group in made.groups] == [20] * 4
    assert [group.shape[1] for group in made.groups] == sorted({g.shape[1] for g in made.groups})
    rows = [
        row
        for group in made.groups
        for row in torch.nn.functional.pad(group, (0, 77 - group.shape[1]))
    ]
    assert torch.equal(torch.stack(rows)[made.place], tokens)
    assert made.num_tokens == sum(3 + n % 10 for n in range(80))
    whole = grouped(tokens, trims=False)
    assert torch.equal(whole.groups[0][whole.place], tokens)
    assert len(grouped(tokens[:8], trims=True).groups) == 1
