"""SLIP: what self-supervision adds to CLIP, and the views that it is of."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clipflow.errors import ParamsError
from clipflow.model import distortions
from clipflow.model.batch import Batch
from clipflow.model.distortions import distorted_view
from clipflow.model.image_features import image_features, width
from clipflow.model.nt_xent import nt_xent
from clipflow.model.towers import Towers
from clipflow.pretrain import stage
from clipflow.pretrain.loader import loader
from fakes.artifacts import make_pairs, make_rewrites, make_samples, tokenized

WORDS = ["red car", "blue hat", "green car", "pink hat"]


def photograph(size_px: int = 96) -> Image.Image:
    y, x = np.mgrid[:size_px, :size_px]
    waves = [128 + 100 * np.sin(x / (9 + 5 * n) + n) * np.cos(y / (13 - 4 * n)) for n in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


def batch(towers: Towers) -> Batch:
    rng = random.Random(0)
    views = [[distorted_view(photograph(), 64, rng) for _ in range(2)] for _ in WORDS]
    images = torch.randint(256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    texts = tokenized(towers, [[f"a {word}"] for word in WORDS])
    return Batch(images.to(torch.uint8), texts, views=torch.from_numpy(np.stack(views)))


@pytest.mark.parametrize("architecture", ["clipflow-tiny", "clipflow-tiny-vit"])
def test_of_weight_0_it_is_clip(
    values: dict[str, Any], stage_params: Any, architecture: str
) -> None:
    """The same loss, and the same gradients of the towers; of another weight they differ."""
    results = []
    for name, weight in (("clip", None), ("slip", 0.0), ("slip", 1.0)):
        params = stage_params("pretrain", recipe=name, architecture=architecture)
        recipe = params.recipe
        if weight is not None:
            recipe = recipe.model_copy(update={"self_supervision": weight})
        torch.manual_seed(0)
        towers = stage.build(params)
        losses = recipe.objective(towers)(batch(towers))
        losses["loss"].backward()
        results.append([losses["loss"].detach(), *(p.grad for p in towers.parameters())])
    clip, without, beside = results
    for ours, theirs in zip(without, clip, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    assert not torch.equal(beside[0], clip[0])
    assert any(not torch.equal(*pair) for pair in zip(beside[1:], clip[1:], strict=True))


def test_two_losses_are_reported_that_add_up(stage_params: Any) -> None:
    towers = Towers("clipflow-tiny", 0.07)
    recipe = stage_params("pretrain", recipe="slip").recipe
    losses = recipe.model_copy(update={"self_supervision": 0.3}).objective(towers)(batch(towers))
    total = losses["contrastive_loss"] + 0.3 * losses["self_supervision_loss"]
    torch.testing.assert_close(losses["loss"].detach(), total)


@pytest.mark.parametrize("architecture", ["clipflow-tiny", "clipflow-tiny-vit", "ViT-S-32-alt"])
def test_features_are_what_is_projected(architecture: str) -> None:
    towers = Towers(architecture, 0.07).eval()
    side = towers.image_size_px
    images = torch.randint(256, (2, side, side, 3), dtype=torch.uint8)
    features, visual = image_features(towers, images), towers.clip.visual
    assert features.shape == (2, width(towers, "slip"))
    projected = visual.head(features) if hasattr(visual, "head") else features @ visual.proj
    ours = torch.nn.functional.normalize(projected, dim=-1)
    torch.testing.assert_close(ours, towers.embed_images(images))


def simplex(num: int) -> Tensor:
    """Unit vectors, each as far from each other one as can be."""
    corners = torch.eye(num) - 1 / num
    return torch.nn.functional.normalize(corners, dim=1)


def test_identical_views_as_far_from_others_as_can_be_have_the_least_loss() -> None:
    """That of a simplex, which no start descends below, and which unlike views don't reach."""
    num, temperature = 6, 0.5
    corners = simplex(num)
    least = nt_xent(corners, corners, temperature)
    near, far = 1 / temperature, -1 / (num - 1) / temperature
    by_hand = math.log(math.exp(near) + 2 * (num - 1) * math.exp(far)) - near
    assert least.item() == pytest.approx(by_hand, rel=1e-5)
    torch.manual_seed(0)
    free = torch.randn(2, num, num).requires_grad_()
    optimiser = torch.optim.Adam([free], lr=0.05)
    for _ in range(400):
        loss = nt_xent(*torch.nn.functional.normalize(free, dim=-1), temperature)
        assert loss.item() > least.item() - 1e-5
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() == pytest.approx(least.item(), abs=1e-3)
    other = torch.nn.functional.normalize(corners + 0.3 * torch.randn(num, num), dim=1)
    assert nt_xent(corners, other, temperature) > least + 0.01


def test_swapping_the_views_changes_nothing() -> None:
    first, second = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    torch.testing.assert_close(nt_xent(first, second, 0.1), nt_xent(second, first, 0.1))


def test_a_view_is_a_function_of_its_random_numbers() -> None:
    one, same, other = (distorted_view(photograph(), 32, random.Random(s)) for s in (1, 1, 2))
    assert one.shape == (32, 32, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_distortions_happen_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 views, of an image whose left half alone is red."""
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :16, 0] = 200
    image, seen = Image.fromarray(red), Counter[str]()
    monkeypatch.setattr(distortions, "CROP_SCALE_MIN", 1.0)  # all there is to see
    monkeypatch.setattr(distortions, "BLUR_SIGMA_PX", (3.0, 3.0))
    for seed in range(1000):
        view = distorted_view(image, 32, random.Random(seed)).astype(int)
        seen["grey"] += bool((view == view[:, :, :1]).all())
        seen["flipped"] += bool(view[:, 20:].sum() > view[:, :12].sum())
        edge = np.abs(np.diff(view.sum(2), axis=1)).max() / max(1, np.ptp(view.sum(2)))
        seen["blurred"] += bool(edge < 0.5)
    expected = {"grey": 0.2, "flipped": 0.5, "blurred": 0.5}
    for name, share in expected.items():
        assert seen[name] / 1000 == pytest.approx(share, abs=0.05), name


def test_the_crop_is_the_one_without_views(
    tmp_path: Path, stage_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops and texts of clip, bit for bit; views are the same with other workers and after a resume."""
    captions = {f"k{n}": f"caption number {n}" for n in range(16)}
    pairs = make_pairs(tmp_path / "p", captions)
    samples = make_samples(tmp_path, pairs, make_rewrites(tmp_path / "r", pairs, {}))
    towers, found = Towers("clipflow-tiny", 0.07), {}
    for name, workers, start in (
        *(("clip", "0", 0), ("slip", "0", 0)),
        *(("slip", "2", 0), ("slip", "0", 2)),
    ):
        monkeypatch.setenv("CLIPFLOW_WORKERS", workers)
        params = stage_params("pretrain", recipe=name, batch_size=8, steps=4)
        batches = loader(samples, params, towers, start=start, rank=0, world=1)
        found[name, workers, start] = list(batches)
    clip, slip, by_workers, resumed = found.values()
    for ours, theirs in zip(slip, clip, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.texts.groups[0], theirs.texts.groups[0])
        assert theirs.views is None
        assert ours.views.shape == (8, 2, 64, 64, 3)
    for other, same in ((by_workers, slip), (resumed, slip[2:])):
        assert all(torch.equal(*(b.views for b in pair)) for pair in zip(other, same, strict=True))
    half = stage_params("pretrain", recipe="slip", batch_size=8, steps=4)
    parts = [loader(samples, half, towers, start=0, rank=rank, world=2) for rank in range(2)]
    for whole, shares in zip(slip, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat([share.views for share in shares]), whole.views)
    assert not torch.equal(slip[0].views, slip[2].views)


def test_what_it_cannot_be_trained_with_is_said(stage_params: Any) -> None:
    params = stage_params("pretrain", recipe="slip", locked=["image"])
    with pytest.raises(ParamsError, match=r"pretrain\.locked: recipe 'slip' .* take 'image' out"):
        params.recipe.objective(stage.build(params))
    params = stage_params("pretrain", recipe="slip", architecture="RN50")
    with pytest.raises(
        ParamsError, match=r"pretrain\.architecture: .*'RN50' doesn't; choose a ViT"
    ):
        params.recipe.objective(stage.build(params))
