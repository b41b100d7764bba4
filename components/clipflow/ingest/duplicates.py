"""Which images are there already: bit for bit, or nearly, by their difference hashes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from clipflow.catalogue import Section

Words = np.ndarray[tuple[int, int], np.dtype[np.uint64]]
Indexes = np.ndarray[tuple[int], np.dtype[np.int64]]

MAX_BITS = 60
"""Of 256; images that differ in more are not alike in any sense."""
BLOCK = 1 << 22
"""Candidates that are compared at once: 64 bytes of memory each."""


class DuplicateRules(Section):
    """Which images are taken once only, or not at all."""

    exact: bool
    """Of images that are stored alike bit for bit, take the first."""
    near_bits: Annotated[int, Field(ge=0, le=MAX_BITS)] | None
    """Of images whose difference hashes differ in at most so many of 256 bits, the first; null: all."""
    benchmark_bits: Annotated[int, Field(ge=0, le=MAX_BITS)] | None
    """Don't train on images that differ in at most so many bits from one that is measured by; null: do."""


def exact(digests: np.ndarray[Any, np.dtype[np.uint64]], rank: Indexes) -> Indexes:
    """For each of n images the index of the equal one of lowest rank, or -1 if it is that one itself."""
    order = np.lexsort((rank, digests))
    first = np.ones(len(order), bool)
    first[1:] = digests[order][1:] != digests[order][:-1]
    leader = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    found = np.full(len(order), -1, np.int64)
    found[order] = np.where(first, -1, leader)
    return found


def near(hashes: Words, max_bits: int, rank: Indexes) -> Indexes:
    """For each of n images the index of one that stays and is like it, or -1 if it stays itself.

    In order of rank, an image stays unless one that stays differs from it in at most `max_bits`.
    `hashes`: uint64[n, words].
    """
    found = exact(_digests(hashes), rank)
    # Equal hashes are one from here on, or those of a thousand copies would be compared a million times.
    leaders = np.flatnonzero(found < 0)
    if max_bits and len(leaders):
        ordered = leaders[np.argsort(rank[leaders], kind="stable")]
        edges = [
            np.stack([later, earlier], axis=1)[later > earlier]
            for later, earlier in _alike(hashes[ordered], hashes[ordered], max_bits)
        ]
        pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *edges]), axis=0)
        gone = dict[int, int]()
        for later, earlier in pairs.tolist():
            if later not in gone and earlier not in gone:
                gone[later] = earlier
        for later, earlier in gone.items():
            found[ordered[later]] = ordered[earlier]
        # What equals one that went is like the same one that stays.
        equal = np.flatnonzero(found >= 0)
        onwards = found[found[equal]]
        found[equal] = np.where(onwards >= 0, onwards, found[equal])
    return found


def contaminated(hashes: Words, reference: Words, max_bits: int) -> Indexes:
    """For each of n images the index of a reference image that is like it, the first, or -1."""
    found = np.full(len(hashes), len(reference), np.int64)
    if len(hashes) and len(reference):
        for index, of_reference in _alike(hashes, reference, max_bits):
            np.minimum.at(found, index, of_reference)
    found[found == len(reference)] = -1
    return found


def _alike(left: Words, right: Words, max_bits: int) -> Iterator[tuple[Indexes, Indexes]]:
    """Every pair that differs in at most `max_bits`, some of them several times.

    Of max_bits + 1 parts of the bits, one at least is equal in such a pair, so only those are compared.
    """
    for band in _bands(64 * left.shape[1], max_bits + 1):
        keys, of_right = _part(left, band), _part(right, band)
        order = np.argsort(of_right, kind="stable")
        start = np.searchsorted(of_right[order], keys, "left")
        counts = np.searchsorted(of_right[order], keys, "right") - start
        ends = np.cumsum(counts)
        begin = 0
        while begin < len(left):
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + BLOCK, "right")))
            these = counts[begin:end]
            index = np.repeat(np.arange(begin, end), these)
            within = np.arange(len(index)) - np.repeat(np.cumsum(these) - these, these)
            other = order[np.repeat(start[begin:end], these) + within]
            bits = np.bitwise_count(left[index] ^ right[other]).sum(axis=1)
            alike = bits <= max_bits
            yield index[alike], other[alike]
            begin = end


def _bands(num_bits: int, num: int) -> list[Indexes]:
    """The bits in `num` parts: dealt out anew, since neighbours in an image are alike."""
    dealt = np.random.default_rng(0).permutation(num_bits)
    return [part[:64] for part in np.array_split(dealt, num)]


def _part(hashes: Words, band: Indexes) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Some bits of each hash as one number."""
    part = np.zeros(len(hashes), np.uint64)
    for bit in band.tolist():
        part = (part << np.uint64(1)) | (
            (hashes[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
        )
    return part


def _digests(hashes: Words) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A number for each hash, the same for equal ones and for no others."""
    if not len(hashes):
        return np.zeros(0, np.uint64)
    return np.unique(hashes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.uint64)
