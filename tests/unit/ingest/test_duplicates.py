"""Duplicates against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipflow.ingest import duplicates


def family(rng: np.random.Generator, num: int, max_flips: int) -> np.ndarray:
    """Hashes of which many are others with a few bits changed."""
    rows = [rng.integers(0, 2**64, 4, np.uint64)]
    for _ in range(num - 1):
        row = rows[rng.integers(len(rows))].copy() if rng.random() < 0.7 else (
            rng.integers(0, 2**64, 4, np.uint64)
        )  # fmt: skip
        for bit in rng.choice(256, rng.integers(0, max_flips + 1), replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        rows.append(row)
    return np.array(rows)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(one ^ other).sum())


@given(
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 4, 9]),
    st.integers(1, 40),
    st.sampled_from([2, 1024]),
)
@settings(max_examples=100, deadline=None)
def test_near_is_greedy_in_order_of_rank(seed: int, max_bits: int, num: int, few: int) -> None:
    rng = np.random.default_rng(seed)
    hashes, rank = family(rng, num, 6), rng.permutation(num)
    with pytest.MonkeyPatch.context() as patch:
        # With few = 2 everything that is alike at all is a crowd, and compared in halves of halves.
        patch.setattr(duplicates, "FEW", few)
        patch.setattr(duplicates, "CROWDED", 0)
        found = duplicates.near(hashes, max_bits, rank)
    stays: list[int] = []
    for index in np.argsort(rank):
        alike = [other for other in stays if distance(hashes[index], hashes[other]) <= max_bits]
        assert (found[index] >= 0) == bool(alike)
        if alike:
            assert distance(hashes[index], hashes[found[index]]) <= max_bits
            assert found[index] in stays
        else:
            stays.append(index)


@given(st.integers(0, 10**6), st.sampled_from([0, 3, 12]))
@settings(max_examples=40, deadline=None)
def test_contaminated_is_like_the_first_reference(seed: int, max_bits: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = family(rng, 40, 8)
    hashes, reference = hashes[:25], hashes[25:]
    found = duplicates.contaminated(hashes, reference, max_bits)
    for index, row in enumerate(hashes):
        alike = [i for i, other in enumerate(reference) if distance(row, other) <= max_bits]
        assert found[index] == (alike[0] if alike else -1)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 10**6))
@settings(deadline=None)
def test_exact_keeps_the_lowest_rank(digests: list[int], seed: int) -> None:
    rank = np.random.default_rng(seed).permutation(len(digests))
    found = duplicates.exact(np.array(digests, np.uint64), rank)
    for index, digest in enumerate(digests):
        equal = [i for i, other in enumerate(digests) if other == digest]
        first = min(equal, key=lambda i: rank[i])
        assert found[index] == (-1 if index == first else first)


@pytest.mark.parametrize("max_bits", [0, 8])
def test_nothing_and_next_to_nothing(max_bits: int) -> None:
    none = np.zeros((0, 4), np.uint64)
    assert not len(duplicates.near(none, max_bits, np.zeros(0, np.int64)))
    assert not len(duplicates.contaminated(none, none, max_bits))
    one = np.ones((1, 4), np.uint64)
    assert duplicates.contaminated(one, none, max_bits).tolist() == [-1]
    assert duplicates.near(one, max_bits, np.zeros(1, np.int64)).tolist() == [-1]


def test_thousands_of_copies_are_not_compared_with_each_other() -> None:
    hashes = np.repeat(family(np.random.default_rng(0), 20, 0)[:1], 200_000, axis=0)
    found = duplicates.near(hashes, 8, np.arange(len(hashes)))
    assert found.tolist() == [-1] + [0] * (len(hashes) - 1)


@pytest.mark.parametrize("limit", ["CROWDED", "MANY_PAIRS"])
def test_thousands_of_nearly_equal_ones_are_not_either(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(duplicates, limit, 4)
    rng = np.random.default_rng(0)
    hashes = np.repeat(family(rng, 1, 0), 30_000, axis=0)
    for _ in range(3):
        bit = rng.integers(0, 256, len(hashes)).astype(np.uint64)
        hashes[np.arange(len(hashes)), bit // 64] ^= np.uint64(1) << bit % 64
    seen = []
    candidates = duplicates._candidates
    monkeypatch.setattr(
        duplicates, "_candidates",
        lambda start, end: (seen.append(int((end - start).sum())), candidates(start, end))[1],
    )  # fmt: skip
    found = duplicates.near(hashes, 8, np.arange(len(hashes)))
    assert (found[1:] >= 0).mean() > 0.99
    assert sum(seen) < len(hashes) ** 2 / 10
