"""Curation against MetaCLIP's own way of matching, and what balancing does to head and tail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipflow.errors import ArtifactError
from clipflow.ingest.curation import Curation, Curator


def curator(folder: Path, entries: list[str], t: int = 20, seed: int = 0) -> Curator:
    file = folder / "metadata.json"
    file.write_text(json.dumps(entries))
    return Curator(Curation(metadata_file=str(file), t=t), seed)


def naive(entries: list[str], caption: str) -> set[int]:
    """Every entry, between spaces, looked for in the caption, whose punctuation has spaces around it."""
    text = f" {caption} "
    for mark in [",", ".", ";", ":", "?", "!", "`"]:
        text = text.replace(mark, f" {mark} ")
    for space in ["\t", "\n", "\r"]:
        text = text.replace(space, " ")
    return {number for number, entry in enumerate(entries) if f" {entry} " in text}


def matches(curator: Curator, captions: list[str]) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in captions]
    for caption, entry in zip(*curator.matches(captions), strict=True):
        found[caption].add(int(entry))
    return found


WORDS = st.sampled_from(["a", "red", "red cat", "cat", "São", "o", "3.5", "c++", "don't", "wi-fi"])


@given(
    st.lists(WORDS, min_size=1, max_size=8, unique=True),
    st.lists(
        st.one_of(WORDS, st.sampled_from([",", ".", "cats", "!", "\t", "RED", ""])), max_size=12
    ),
    st.sampled_from([" ", ""]),
)
@settings(max_examples=200, deadline=None)
def test_matches_are_metaclips(
    tmp_path_factory: pytest.TempPathFactory, entries: list[str], parts: list[str], glue: str
) -> None:
    caption = glue.join(parts)
    found = curator(tmp_path_factory.mktemp("m"), entries)
    captions = [caption, "", "a red", caption]
    assert matches(found, captions) == [naive(entries, caption) for caption in captions]


def test_overlapping_entries_all_match(tmp_path: Path) -> None:
    entries = ["new york", "york", "york city", "new york city", "city hall"]
    assert matches(curator(tmp_path, entries), ["new york city"]) == [{0, 1, 2, 3}]


def test_the_head_is_thinned_and_the_tail_stays(tmp_path: Path) -> None:
    captions = (
        [f"a dog {n}" for n in range(4000)] + [f"an axolotl {n}" for n in range(15)] + ["zzz"] * 9
    )
    keys = [f"k{n}" for n in range(len(captions))]
    balanced = curator(tmp_path, ["dog", "axolotl"], t=400)
    balanced.count(captions)
    kept = np.array(balanced.keeps(keys, captions))
    assert 330 < kept[:4000].sum() < 470  # 400 expected, standard deviation 19
    assert kept[4000:4015].all()
    assert not kept[4015:].any()
    facts = balanced.facts()
    assert facts["num_captions_unmatched"] == 9
    assert (facts["num_entries_matched"], facts["num_entries_thinned"]) == (2, 1)


def test_a_caption_with_a_rare_entry_stays_whatever_else_it_has(tmp_path: Path) -> None:
    captions = ["a dog"] * 1000 + ["a dog beside an axolotl"] * 5
    balanced = curator(tmp_path, ["dog", "axolotl"], t=10)
    balanced.count(captions)
    assert all(balanced.keeps([f"k{n}" for n in range(1005)], captions)[1000:])


def test_draws_depend_on_keys_and_seed_alone(tmp_path: Path) -> None:
    captions = [f"dog {n}" for n in range(500)]
    keys = [f"k{n}" for n in range(500)]
    one, other = curator(tmp_path, ["dog"], t=50), curator(tmp_path, ["dog"], t=50)
    one.count(captions)
    for start in range(0, 500, 7):
        other.count(captions[start : start + 7][::-1])
    kept = one.keeps(keys, captions)
    assert kept == [other.keeps([k], [c])[0] for k, c in zip(keys, captions, strict=True)]
    another = curator(tmp_path, ["dog"], t=50, seed=1)
    another.count(captions)
    assert another.keeps(keys, captions) != kept


def test_a_list_of_lines(tmp_path: Path) -> None:
    file = tmp_path / "entries.txt"
    file.write_text("cat\n\ncat\n dog \n")
    found = Curator(Curation(metadata_file=str(file), t=1), 0)
    assert found.facts()["num_entries"] == 2
    assert matches(found, ["a dog, a cat."]) == [{0, 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("m.json", b"{", "expected a JSON list or a text file"), ("m.txt", b"caf\xe9", "expected a JSON list"),
     ("m.txt", b"\n", "expected entries"), ("gone.txt", None, "No such file")],
)  # fmt: skip
def test_wrong_lists_are_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        Curator(Curation(metadata_file=str(tmp_path / name), t=1), 0)
