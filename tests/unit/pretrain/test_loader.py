"""Batches are functions of (seed, step): not of resuming, workers or processes."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from clipflow.artifacts import rewrites
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ParamsError
from clipflow.model.towers import Towers
from clipflow.pretrain.loader import Batch, Order, loader
from fakes.artifacts import make_pairs, make_rewrites


def rows(params: Any, **place: int) -> list[list[tuple[int, int]]]:
    order = Order(50, params, **{"start": 0, "rank": 0, "world": 1, **place})
    return [[(draw.row, draw.epoch) for draw in step] for step in order]


def test_every_pair_once_per_epoch_in_a_new_order(stage_params: Any) -> None:
    params = stage_params("pretrain", batch_size=16, steps=6)
    steps = rows(params)
    first, second = (list(chain(*half)) for half in (steps[:3], steps[3:]))
    assert len({row for row, _ in first}) == len({row for row, _ in second}) == 48
    assert {epoch for _, epoch in first} == {0}
    assert {epoch for _, epoch in second} == {1}
    assert [row for row, _ in first] != [row for row, _ in second]
    assert rows(stage_params("pretrain", batch_size=16, steps=6, seed=1)) != steps


def test_a_resumed_run_sees_the_rest(stage_params: Any) -> None:
    params = stage_params("pretrain", batch_size=16, steps=6)
    assert rows(params, start=4) == rows(params)[4:]


def test_processes_share_the_global_batch(stage_params: Any) -> None:
    params = stage_params("pretrain", batch_size=16, steps=6)
    parts = [rows(params, rank=rank, world=4) for rank in range(4)]
    joined = [list(chain(*step)) for step in zip(*parts, strict=True)]
    assert joined == rows(params)


def test_impossible_batches(stage_params: Any) -> None:
    with pytest.raises(ParamsError, match="64 exceeds the 50 pairs"):
        Order(50, stage_params("pretrain", batch_size=64), start=0, rank=0, world=1)
    with pytest.raises(ParamsError, match="16 is not a multiple of the 3 processes"):
        Order(50, stage_params("pretrain", batch_size=16), start=0, rank=0, world=3)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_change_nothing(
    tmp_path: Path, stage_params: Any, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    captions = {f"k{n}": f"caption number {n}" for n in range(16)}
    pairs = make_pairs(tmp_path / "p", captions)
    texts = make_rewrites(tmp_path / "r", pairs, {k: [f"other {k}"] for k in captions})
    params = stage_params("pretrain", batch_size=8, steps=2)
    towers = Towers("clipflow-tiny", 0.07)
    data = Pairs(pairs)

    def batches(count: str) -> list[Batch]:
        monkeypatch.setenv("CLIPFLOW_WORKERS", count)
        aligned = rewrites.align(texts, data)
        return list(loader(data, aligned, params, towers, start=0, rank=0, world=1))

    reference = batches("0")
    for batch, expected in zip(batches(workers), reference, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.tokens, expected.tokens)
    assert reference[0].images.shape == (8, 3, 64, 64)
    assert reference[0].tokens.shape[:2] == (8, 1)
