"""Pairs joined with their rewrites, in a file that every process maps."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from clipflow.artifacts.pairs import Pairs
from clipflow.pretrain.samples import Samples, join
from fakes.artifacts import jpeg, make_pairs, make_rewrites, make_samples

CAPTIONS = {f"k{n}": f"caption {n}" for n in range(7)}
TEXTS = {key: [f"{key} a", f"{key} b"][: n % 3] for n, key in enumerate(CAPTIONS)}


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    pairs = make_pairs(tmp_path / "pairs", CAPTIONS, samples_per_shard=3)
    return make_samples(tmp_path, pairs, make_rewrites(tmp_path / "rewrites", pairs, TEXTS))


def test_every_row_is_its_pair(samples: Samples) -> None:
    assert len(samples) == 7
    for row in (6, 0, 3, 2):
        key = f"k{row}"
        assert samples.key(row) == key
        assert samples.texts(row) == (CAPTIONS[key], TEXTS[key])
        assert samples.image(row) == jpeg((row * 37 % 256, row * 91 % 256, 80))


def test_they_travel_to_workers(samples: Samples) -> None:
    first = samples.image(0)
    travelled = pickle.loads(pickle.dumps(samples))
    assert (travelled.image(0), travelled.texts(5)) == (first, samples.texts(5))
    assert len(pickle.dumps(samples)) < 1000


def test_joined_once(tmp_path: Path, samples: Samples) -> None:
    written = samples.file.stat().st_mtime_ns
    join(Pairs(tmp_path / "pairs"), tmp_path / "nowhere", samples.file)
    assert samples.file.stat().st_mtime_ns == written
    assert not list(tmp_path.glob("*.partial"))
