import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.artifacts.rewrites import Candidate, Writer
from clipflow.rewrite import quality
from clipflow.rewrite.quality import Row
from fakes.artifacts import make_pairs


def candidate(text: str, source: str, outcome: str = "accepted", *flags: str) -> Candidate:
    found: Candidate = {"text": text, "source": source, "outcome": outcome}
    return {**found, "flags": list(flags)} if flags else found


ROWS = [
    Row(
        "1",
        "a b c d",
        [candidate("a b", "x"), candidate("A b c d e f", "y", "accepted", "lost name")],
    ),
    Row("2", "a b", [candidate("a b", "x", "copy"), candidate("b, a!", "y")]),
]
GROUPS = {"x": "x", "y": "y"}
COUNTS = {
    "x": {"accepted": 1, "copy": 1},
    "y": {"accepted": 2, "flag: lost name": 1},
}


def embed(texts: list[str]) -> NDArray[np.float32]:
    """Of an angle of one degree per letter."""
    angles = np.radians([len(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_figures_by_hand() -> None:
    found = quality.facts(COUNTS, quality.measure(ROWS, GROUPS, embed))
    y = found["y"]
    assert (y["num_candidates"], y["num_accepted"], y["acceptance"]) == (2, 2, 1)
    assert y["flags"] == {"lost name": 1}
    assert y["flagged"] == 0.5
    assert y["length_ratio"] == (6 / 4 + 2 / 2) / 2
    assert y["distinct_1"] == 6 / 8
    assert y["distinct_2"] == 1  # a b, b c, c d, d e, e f, b a
    assert y["agreement"] == pytest.approx(
        (np.cos(np.radians(4)) + np.cos(np.radians(2))) / 2, abs=1e-5
    )
    assert found["x"]["rejected"] == {"copy": 1}
    assert found["x"]["copy_rate"] == found["x"]["acceptance"] == 0.5
    assert found["all"]["num_candidates"] == 4
    assert found["all"]["acceptance"] == 0.75
    assert found["all"]["distinct_1"] == 6 / 10
    json.dumps(found)


def test_without_agreement_or_anything_accepted() -> None:
    assert quality.facts(COUNTS, quality.measure(ROWS, GROUPS, None))["all"]["agreement"] is None
    rejected = [Row("1", "a b", [candidate("", "x", "empty")])]
    found = quality.facts({"x": {"empty": 1}}, quality.measure(rejected, {"x": "x"}, embed))["all"]
    assert found["acceptance"] == 0
    assert found["length_ratio"] is found["self_bleu"] is found["distinct_1"] is None


def test_self_bleu() -> None:
    same = ["a", "b", "c", "d", "e"]
    assert quality.self_bleu([same]) == [None]
    assert quality.self_bleu([same, same]) == pytest.approx([1, 1])
    assert quality.self_bleu([same, ["v", "w", "x"]]) == [0, 0]
    # By hand: one word of two and, smoothed, one pair of words of two; no penalty for length.
    assert quality.self_bleu([["a", "b"], ["a", "c"]])[0] == pytest.approx((1 / 2 * 1 / 2) ** 0.5)
    # Shorter than its reference: e^(1 - 4/2), with all it has matched.
    assert quality.self_bleu([["a", "b"], ["a", "b", "c", "d"]])[0] == pytest.approx(np.exp(-1))
    near, far = quality.self_bleu([["a", "b", "c"], ["a", "b", "d"], ["x", "y", "c"]])[::2]
    assert near is not None
    assert far is not None
    assert near > far


def test_many_sources_are_taken_together() -> None:
    counts = {f"s{n:02d}": {"accepted": 100 - n} for n in range(30)}
    groups = quality.grouped(counts)
    assert [s for s, group in groups.items() if group != "other"] == [
        f"s{n:02d}" for n in range(11)
    ]
    found = quality.facts(counts, {})
    assert len(found) == quality.MAX_SOURCES + 1
    assert found["other"]["num_candidates"] == sum(100 - n for n in range(11, 30))


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[Path, Pairs]]:
    """Rewrites of 30 captions in shards of 10."""
    captions = {f"k{n:02d}": f"caption {n}" for n in range(30)}
    pairs = Pairs(make_pairs(tmp_path / "pairs", captions, samples_per_shard=10))
    with manifest.complete_or_absent(tmp_path / "rewrites") as folder:
        writer = Writer(folder)
        for name, keys, texts in pairs.by_shard():
            candidates = [[candidate(f"{text} again", "x")] for text in texts]
            writer.add_shard(name, dict(zip(keys, candidates, strict=True)))
        yield folder, pairs
        writer.close()


def test_the_sample_is_a_prefix_of_any_larger_one(written: tuple[Path, Pairs]) -> None:
    everything = quality.sample(*written)
    assert sorted(row.key for row in everything) == [f"k{n:02d}" for n in range(30)]
    assert quality.sample(*written, limit=7) == everything[:7]
    for row in everything:
        assert row.caption == f"caption {int(row.key[1:])}"
        assert row.candidates[0]["text"] == f"{row.caption} again"


def test_the_sample_is_of_the_shards_that_there_are(written: tuple[Path, Pairs]) -> None:
    folder, pairs = written
    (folder / "00001.parquet").unlink()
    assert len(quality.sample(folder, pairs)) == 20
    assert not any("k10" <= row.key < "k20" for row in quality.sample(folder, pairs))
