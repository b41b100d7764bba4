"""MetaCLIP's curation: captions balanced over a list of what there is (Xu et al. 2023, section 3).

A caption matches the entries of the list that stand in it as whole words. An entry that `count` captions
match is drawn with p = min(1, t / count) in each of them, and a caption is kept if any of its entries is
drawn: what is common is thinned to about t captions, what is rare stays (their Algorithm 1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from clipflow.catalogue import Section
from clipflow.errors import ArtifactError

WRAPPED = ",.;:?!`"
"""Punctuation that is set apart by spaces before matching, as MetaCLIP's code does it."""
SEPARATOR = "\0"
"""Stands between captions where many are matched at once, and in none of them."""
NONE = -1
ROOT = -1

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Curation(Section):
    """By which list, and how hard."""

    metadata_file: str
    """The entries: a JSON list of texts, as MetaCLIP publishes its 500,000, or a file of lines."""
    t: int = Field(ge=1)
    """Captions of an entry that are kept, about: 20,000 for the paper's 400M."""


class Curator:
    """Counts in a first pass over the captions, and tells in a second which are kept.

    The list is a trie of words, walked for a whole batch of captions at once; memory grows with the list,
    not with the captions.
    """

    def __init__(self, params: Curation, seed: int) -> None:
        """Raises ArtifactError if the list can't be read or is empty."""
        entries = read(Path(params.metadata_file))
        self._t, self._seed = params.t, seed
        self._counts = np.zeros(len(entries), np.int64)
        self._num_captions = self._num_unmatched = 0
        self._words = {SEPARATOR: 0}
        nodes, ends = dict[tuple[int, int], int](), list[int]()
        for number, entry in enumerate(entries):
            node = ROOT
            for word in entry.split(" "):
                edge = (node, self._words.setdefault(word, len(self._words)))
                if edge not in nodes:
                    nodes[edge] = len(ends)
                    ends.append(NONE)
                node = nodes[edge]
            ends[node] = number
        # An edge is one number, the node it leaves and the word; those of the root are looked up by word.
        self._entry = np.array(ends, np.int64)
        self._first = np.full(len(self._words), NONE, np.int64)
        edges = [
            (node * len(self._words) + w, to) for (node, w), to in nodes.items() if node != ROOT
        ]
        self._edges, self._to = np.array(sorted(edges), np.int64).reshape(-1, 2).T
        for (node, first), to in nodes.items():
            if node == ROOT:
                self._first[first] = to
        self._goes_on = np.zeros(len(ends), bool)
        self._goes_on[self._edges // len(self._words)] = True

    def matches(self, captions: Sequence[str]) -> tuple[Numbers, Numbers]:
        """Which entries stand in which captions, letter by letter, between spaces.

        Two int64[n]: the caption's place in `captions`, ascending, and the entry's number; no pair twice.
        """
        text = (
            f" {SEPARATOR} ".join(captions).replace("\t", " ").replace("\n", " ").replace("\r", " ")
        )
        for mark in WRAPPED:
            text = text.replace(mark, f" {mark} ")
        words = np.fromiter(map(self._words.get, text.split(" "), repeat(NONE)), np.int64)
        caption = np.cumsum(words == 0)
        at = np.flatnonzero(words > 0)
        node = self._first[words[at]]
        found = []
        while len(at):
            known = node != NONE
            at, node = at[known], node[known]
            is_end = self._entry[node] != NONE
            found.append(caption[at[is_end]] * len(self._counts) + self._entry[node[is_end]])
            goes_on = self._goes_on[node] & (at + 1 < len(words))
            at, node = at[goes_on] + 1, node[goes_on]
            edge = node * len(self._words) + words[at]
            place = np.minimum(np.searchsorted(self._edges, edge), len(self._edges) - 1)
            node = np.where(
                (words[at] > 0) & (self._edges[place] == edge), self._to[place], NONE
            ) if len(at) else node  # fmt: skip
        pairs = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
        return pairs // len(self._counts), pairs % len(self._counts)

    def count(self, captions: Sequence[str]) -> None:
        """Count the entries of some captions."""
        caption, entry = self.matches(captions)
        self._counts += np.bincount(entry, minlength=len(self._counts))
        self._num_captions += len(captions)
        self._num_unmatched += len(captions) - len(np.unique(caption))

    def keeps(self, keys: Sequence[str], captions: Sequence[str]) -> list[bool]:
        """Which captions are kept, after all have been counted; keys decide the draws."""
        caption, entry = self.matches(captions)
        probability = self._t / np.maximum(self._counts[entry], self._t)
        kept = np.zeros(len(captions), bool)
        kept[caption[probability == 1]] = True
        drawn = ~kept[caption]
        caption, entry, probability = caption[drawn], entry[drawn], probability[drawn]
        number = np.zeros(len(captions), np.uint64)
        for place in np.unique(caption):
            text = f"{self._seed}/{keys[place]}".encode()
            number[place] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        draws = _mixed(number[caption] ^ _mixed(entry.astype(np.uint64)))
        kept[caption[draws / 2**64 < probability]] = True
        return kept.tolist()

    def facts(self) -> dict[str, int]:
        """What the manifest says."""
        return {
            "t": self._t,
            "num_entries": len(self._counts),
            "num_entries_matched": int((self._counts > 0).sum()),
            "num_entries_thinned": int((self._counts > self._t).sum()),
            "num_captions": self._num_captions,
            "num_captions_unmatched": self._num_unmatched,
        }


def _mixed(numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Numbers of which every bit depends on every bit of those given (splitmix64, Steele et al. 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def read(file: Path) -> list[str]:
    """The entries of a list, each once. Raises ArtifactError."""
    try:
        text = file.read_text(encoding="utf-8")
        found: Any = json.loads(text) if file.suffix == ".json" else text.splitlines()
        entries = list(dict.fromkeys(str(entry).strip() for entry in found))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"ingest.curation.metadata_file: expected a JSON list or a text file, got '{file}'"
            f" ({' '.join(str(error).split())}); give its path"
        ) from None
    entries = [entry for entry in entries if entry]
    if not entries:
        raise ArtifactError(f"{file}: expected entries to match captions by, found none")
    return entries
