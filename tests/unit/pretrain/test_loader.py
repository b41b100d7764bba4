"""Batches are functions of (seed, step): not of resuming, workers or processes."""

from __future__ import annotations

import io
import os
import random
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from clipflow.errors import ArtifactError, ParamsError
from clipflow.model.crops import crop_box, cropped
from clipflow.model.towers import Towers
from clipflow.pretrain.loader import Batch, Order, advice, loader
from clipflow.pretrain.samples import Samples
from fakes.artifacts import jpeg, make_pairs, make_rewrites, make_samples


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


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    captions = {f"k{n}": f"caption number {n}" + " and more" * n for n in range(16)}
    pairs = make_pairs(tmp_path / "p", captions)
    texts = make_rewrites(tmp_path / "r", pairs, {k: [f"other {k}"] for k in captions})
    return make_samples(tmp_path, pairs, texts)


def batches(samples: Samples, params: Any) -> list[Batch]:
    return list(loader(samples, params, Towers("clipflow-tiny", 0.07), start=0, rank=0, world=1))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_change_nothing(
    samples: Samples, stage_params: Any, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    params = stage_params("pretrain", batch_size=8, steps=2)
    monkeypatch.setenv("CLIPFLOW_WORKERS", "0")
    reference = batches(samples, params)
    monkeypatch.setenv("CLIPFLOW_WORKERS", workers)
    for batch, expected in zip(batches(samples, params), reference, strict=True):
        assert torch.equal(batch.images, expected.images)
        for group, other in zip(batch.texts.groups, expected.texts.groups, strict=True):
            assert torch.equal(group, other)
        assert batch.rows == expected.rows
    assert reference[0].images.shape == (8, 64, 64, 3)
    assert reference[0].images.dtype == torch.uint8
    assert reference[0].texts.place.shape == (8, 1)


def test_an_image_that_cannot_be_read_gives_way_to_the_next(
    samples: Samples, stage_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Always to the same one, whatever the step; the batch names what it replaced."""
    params = stage_params("pretrain", batch_size=16, steps=1, recipe="clip")
    good = Samples.image
    broken = {3: b"no image", 15: jpeg()[:400]}
    monkeypatch.setattr(Samples, "image", lambda self, row: broken.get(row) or good(self, row))
    (batch,) = batches(samples, params)
    assert sorted(batch.damaged) == ["k15", "k3"]
    assert sorted(batch.rows) == sorted([0, 1, 2, 4, 4, *range(5, 15), 0])
    (again,) = batches(samples, params)
    assert torch.equal(again.images, batch.images)
    monkeypatch.setattr(Samples, "image", lambda *_: b"")
    with pytest.raises(ArtifactError, match="10 images in a row can't be read"):
        batches(samples, params)


@pytest.mark.parametrize("size", [(400, 300), (90, 700)])
def test_crops_have_torchvisions_law(size: tuple[int, int]) -> None:
    """Area and aspect ratio of 3,000 crops are distributed as RandomResizedCrop's."""
    rng = random.Random(0)
    torch.manual_seed(0)
    ours = [crop_box(*size, 0.5, rng) for _ in range(3000)]
    blank = torch.empty(3, size[1], size[0])
    theirs = [v2.RandomResizedCrop(64, scale=(0.5, 1.0)).make_params([blank]) for _ in range(3000)]
    other = [(p["left"], p["top"], p["width"], p["height"]) for p in theirs]
    for measure in (lambda b: b[2] * b[3], lambda b: b[2] / b[3], lambda b: b[0], lambda b: b[1]):
        mine, expected = ([float(measure(box)) for box in boxes] for boxes in (ours, other))
        assert len(set(expected)) == len(set(mine)) == 1 or ks_2samp(mine, expected).pvalue > 0.01
    assert all(0 <= x <= size[0] - w and 0 <= y <= size[1] - h for x, y, w, h in ours)


def photograph(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / (23 + 9 * n) + n) * np.cos(y / (31 - 4 * n)) for n in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "mode"), [((300, 200), "RGB"), ((1200, 900), "RGB"), ((90, 90), "L")]
)
def test_a_crop_is_that_part_of_the_image(size: tuple[int, int], mode: str) -> None:
    """Against cropping and resizing the fully decoded image; a large one is decoded at lower resolution."""
    out = io.BytesIO()
    photograph(*size).convert(mode).save(out, "JPEG", quality=95)
    ours = cropped(Image.open(io.BytesIO(out.getvalue())), 64, 0.5, random.Random(3))
    left, top, width, height = crop_box(*size, 0.5, random.Random(3))
    whole = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
    part = whole.crop((left, top, left + width, top + height)).resize(
        (64, 64), Image.Resampling.BICUBIC
    )
    difference = np.abs(ours.astype(int) - np.asarray(part).astype(int))
    assert difference.mean() < 1.5
    assert ours.shape == (64, 64, 3)


def test_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setenv("CLIPFLOW_WORKERS", "1")
    assert advice(0.04) is None
    assert "23% of the time was spent waiting for data; set CLIPFLOW_WORKERS above 1" in str(
        advice(0.23)
    )
    monkeypatch.setenv("CLIPFLOW_WORKERS", "15")
    assert "all 16 cores are busy" in str(advice(0.23))
