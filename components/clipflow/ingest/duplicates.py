"""Which images are there already: bit for bit, or nearly, by their difference hashes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from clipflow.catalogue import Section

Words = np.ndarray[tuple[int, int], np.dtype[np.uint64]]
Pairs = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Indexes = np.ndarray[tuple[int], np.dtype[np.int64]]

MAX_BITS = 32
"""Of 256; beyond it unlike images are found alike, and the search by parts of the bits finds crowds."""
BLOCK = 1 << 22
"""Candidates that are compared at once: 64 bytes of memory each."""
CROWDED = 64
"""Candidates per image, from one part of the bits, beyond which images are compared in two halves."""
MANY_PAIRS = 1 << 22
"""Pairs beyond which they are too: 80 bytes of memory each."""
FEW = 1024
"""Images that are compared at once however alike they are."""


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
    if max_bits:
        ordered = leaders[np.argsort(rank[leaders], kind="stable")]
        like = _like_earlier(hashes[ordered], max_bits)
        gone = np.flatnonzero(like >= 0)
        found[ordered[gone]] = ordered[like[gone]]
        # What equals one that went is like the same one that stays.
        equal = np.flatnonzero(found >= 0)
        onwards = found[found[equal]]
        found[equal] = np.where(onwards >= 0, onwards, found[equal])
    return found


def _like_earlier(hashes: Words, max_bits: int) -> Indexes:
    """`near` of hashes that are in order of rank: the first that stays and is like each, or -1."""
    found = np.full(len(hashes), -1, np.int64)
    pairs = _pairs_within(hashes, max_bits)
    if pairs is not None:
        for later, earlier in zip(*pairs.T.tolist(), strict=True):
            if found[later] < 0 and found[earlier] < 0:
                found[later] = earlier
        return found
    # A crowd, in which nearly all go: those like the ones that stay in the first half go before they are
    # compared with each other.
    half = len(hashes) // 2
    found[:half] = _like_earlier(hashes[:half], max_bits)
    stay = np.flatnonzero(found[:half] < 0)
    like = contaminated(hashes[half:], hashes[stay], max_bits)
    found[half:] = np.where(like >= 0, stay[like], -1)
    rest = half + np.flatnonzero(like < 0)
    like = _like_earlier(hashes[rest], max_bits)
    found[rest] = np.where(like >= 0, rest[like], -1)
    return found


def contaminated(hashes: Words, reference: Words, max_bits: int) -> Indexes:
    """For each of n images the index of a reference image that is like it, the first, or -1."""
    found = np.full(len(hashes), len(reference), np.int64)
    if len(hashes) and len(reference):
        for band in _bands(64 * hashes.shape[1], max_bits + 1):
            keys, of_reference = _part(hashes, band), _part(reference, band)
            order = np.argsort(of_reference, kind="stable")
            start = np.searchsorted(of_reference[order], keys, "left")
            end = np.searchsorted(of_reference[order], keys, "right")
            for index, place in _candidates(start, end):
                alike = _alike(hashes, index, reference, order[place], max_bits)
                np.minimum.at(found, index[alike], order[place[alike]])
    found[found == len(reference)] = -1
    return found


def _pairs_within(hashes: Words, max_bits: int) -> Pairs | None:
    """(later, earlier) of every pair that is alike, in order; None if there is a crowd."""
    found = [np.zeros((0, 2), np.int64)]
    for band in _bands(64 * hashes.shape[1], max_bits + 1):
        keys = _part(hashes, band)
        order = np.argsort(keys, kind="stable")
        start = np.searchsorted(keys[order], keys[order], "left")
        end = np.arange(len(order))  # of those with the same part, the ones before
        if len(hashes) > FEW and (end - start).sum() > CROWDED * len(hashes):
            return None
        for place, before in _candidates(start, end):
            later, earlier = order[place], order[before]
            alike = _alike(hashes, later, hashes, earlier, max_bits)
            found.append(np.stack([later[alike], earlier[alike]], axis=1))
        if len(hashes) > FEW and sum(map(len, found)) > MANY_PAIRS:
            return None
    return np.unique(np.concatenate(found), axis=0)


def _candidates(start: Indexes, end: Indexes) -> Iterator[tuple[Indexes, Indexes]]:
    """Each index with every number from its start to its end, at most BLOCK or one index at once."""
    counts = end - start
    until = np.cumsum(counts)
    first = 0
    while first < len(counts):
        done = until[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(until, done + BLOCK, "right")))
        these = counts[first:last]
        within = np.arange(these.sum()) - np.repeat(until[first:last] - these - done, these)
        yield np.repeat(np.arange(first, last), these), np.repeat(start[first:last], these) + within
        first = last


def _alike(left: Words, index: Indexes, right: Words, other: Indexes, max_bits: int) -> Indexes:
    """Which of the pairs differ in at most `max_bits`: by their first words, and then by all of them."""
    maybe = np.flatnonzero(np.bitwise_count(left[index, 0] ^ right[other, 0]) <= max_bits)
    bits = np.bitwise_count(left[index[maybe]] ^ right[other[maybe]]).sum(axis=1)
    alike: Indexes = maybe[bits <= max_bits]
    return alike


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
