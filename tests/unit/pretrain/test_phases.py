"""Phases: what a step sees is a function of the step, and each boundary is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from clipflow import plan as planning
from clipflow.artifacts import checkpoint
from clipflow.errors import ParamsError
from clipflow.model.batch import Batch
from clipflow.model.towers import Towers
from clipflow.pretrain import phases, stage
from clipflow.pretrain.loader import loader
from clipflow.pretrain.optimiser import learning_rate
from clipflow.pretrain.params import Params
from clipflow.recipes import Phase, at
from fakes.artifacts import make_samples
from fakes.launch import make_inputs
from fakes.power_cut import power_cut

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" + " and more" * (n % 9) for n in range(48)}
VIT = "clipflow-tiny-vit"
TUNING = {"share": 0.34, "lr_factor": 0.1, "warmup_share": 0.5}
FLIP = {"temperature_init": 0.07, "masking": 0.75, "tuning": TUNING}
CLIPA = {"temperature_init": 0.07, "image_side": 0.5, "text_tokens": 8, "shortening": "block",
         "tuning": TUNING}  # fmt: skip
WHOLE = {"flip": FLIP | {"masking": 0.0}, "clipa": CLIPA | {"image_side": 1.0, "text_tokens": 77}}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    return make_inputs(tmp_path, CAPTIONS)


@pytest.fixture
def chosen(stage_params: Any, values: dict[str, Any]) -> Any:
    """`chosen("flip", settings, steps=9)`: params with a recipe's settings replaced, on a tiny ViT."""

    def build(recipe: str, settings: dict[str, Any], **changes: Any) -> Params:
        from clipflow import params

        section = {**values["pretrain"], "architecture": VIT, **changes}
        section["recipe"] = {"name": recipe, **settings}
        built = params.parse(section, "pretrain")
        assert isinstance(built, Params)
        return built

    return build


def batches(folder: Path, data: dict[str, Path], params: Params, **place: int) -> list[Batch]:
    samples = make_samples(folder, data["pairs"], data["rewrites"])
    torch.manual_seed(0)
    towers = stage.build(params)
    return list(loader(samples, params, towers, **{"start": 0, "rank": 0, "world": 1, **place}))


def test_a_step_is_in_one_phase_and_one_place_of_it() -> None:
    parts = [Phase(3, 0), Phase(2, 1, 0.1), Phase(1, 0)]
    places = [at(parts, step)[:2] for step in range(7)]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert at(parts, 4)[2] is parts[1]


@pytest.mark.parametrize(("steps", "tuned"), [(1000, 10), (60, 1), (2, 1), (1, 0)])
def test_the_phases_have_all_steps_together(chosen: Any, steps: int, tuned: int) -> None:
    settings = FLIP | {"tuning": TUNING | {"share": 0.01}}
    found = chosen("flip", settings, steps=steps).phases
    assert [phase.steps for phase in found] == ([steps - tuned, tuned] if tuned else [steps])
    assert found[0].patch_dropout == 0.75
    none = chosen("flip", FLIP | {"tuning": TUNING | {"share": 0.0}}, steps=steps).phases
    assert [phase.steps for phase in none] == [steps]


@pytest.mark.parametrize(("recipe", "settings"), [("flip", FLIP), ("clipa", CLIPA)])
def test_the_last_phase_is_on_full_tokens(
    chosen: Any, recipe: str, settings: dict[str, Any]
) -> None:
    *_, last = chosen(recipe, settings).phases
    assert last == Phase(last.steps, last.warmup_steps, lr_factor=0.1)


def test_each_phase_has_its_own_warm_up_and_schedule(chosen: Any) -> None:
    params = chosen("flip", FLIP, steps=100, warmup_steps=10, lr=1.0, lr_min=0.0, schedule="cosine")
    rates = [learning_rate(step, params) for step in range(100)]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[10] == 1.0
    assert rates[10 + 28] == pytest.approx(0.5)  # 66 steps, 10 of them warm-up
    assert rates[65] < 0.01
    assert rates[66] == pytest.approx(1e-7)  # 34 steps, half of them warm-up, at a tenth
    assert rates[66 + 17] == pytest.approx(0.1)
    assert rates[99] < 0.01 * 0.1
    plain = chosen(
        "clip", {"temperature_init": 0.07}, steps=66, warmup_steps=10, lr=1.0, lr_min=0.0
    )
    assert rates[:66] == [learning_rate(step, plain) for step in range(66)]


@pytest.mark.parametrize(
    ("recipe", "settings", "images", "texts"),
    [("flip", FLIP, 16, None), ("clipa", CLIPA, 16, 8)],
)
def test_the_towers_see_as_many_tokens_as_the_phase_says(
    tmp_path: Path, data: dict[str, Path], chosen: Any, recipe: str, settings: dict[str, Any],
    images: int, texts: int | None,
) -> None:  # fmt: skip
    params = chosen(recipe, settings, steps=6)
    towers, objective = Towers(VIT, 0.07), None
    seen: dict[str, list[int]] = {"image": [], "text": []}
    for name, tower in (("image", towers.clip.visual), ("text", towers.clip.text)):
        tower.transformer.resblocks[0].register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].shape[1])
        )
    objective = params.recipe.objective(towers)
    longest = []
    for batch in batches(tmp_path, data, params):
        seen["text"].clear()
        objective(batch)
        longest.append(max(seen["text"]))
    assert seen["image"] == [1 + images] * 4 + [1 + 64] * 2
    assert min(longest[4:]) > 16
    assert longest[:4] == [texts] * 4 if texts else min(longest) > 16


@pytest.mark.parametrize(("recipe", "settings"), [("flip", FLIP), ("clipa", CLIPA)])
def test_views_depend_on_the_step_alone(
    tmp_path: Path, data: dict[str, Path], chosen: Any, monkeypatch: pytest.MonkeyPatch,
    recipe: str, settings: dict[str, Any],
) -> None:  # fmt: skip
    """Not on where the run began, on loader processes that run ahead, or on how many processes share it."""
    params = chosen(recipe, settings, steps=6)
    reference = batches(tmp_path, data, params)
    monkeypatch.setenv("CLIPFLOW_WORKERS", "2")
    again = batches(tmp_path, data, params), batches(tmp_path, data, params, start=3)
    monkeypatch.setenv("CLIPFLOW_WORKERS", "0")
    shares = [batches(tmp_path, data, params, rank=rank, world=2) for rank in range(2)]

    def same(one: Batch, other: Batch) -> bool:
        texts = zip(one.texts.groups, other.texts.groups, strict=True)
        patches = one.patches, other.patches
        return (
            torch.equal(one.images, other.images)
            and all(torch.equal(*both) for both in texts)
            and (None in patches or torch.equal(*patches))
            and (patches[0] is None) is (patches[1] is None)
        )

    assert len(again[0]) == 6
    assert all(map(same, again[0], reference))
    assert len(again[1]) == 3
    assert all(map(same, again[1], reference[3:]))
    for step, batch in enumerate(reference):
        halves = [share[step] for share in shares]
        assert torch.equal(torch.cat([half.images for half in halves]), batch.images)
        if batch.patches is not None:
            assert torch.equal(torch.cat([half.patches for half in halves]), batch.patches)


def test_masks_are_drawn_anew_and_evenly(
    tmp_path: Path, data: dict[str, Path], chosen: Any
) -> None:
    params = chosen("flip", FLIP, steps=90)
    masks = [batch.patches for batch in batches(tmp_path, data, params)[:59]]
    assert all(mask.shape == (16, 16) for mask in masks)
    counts = torch.stack(masks).flatten().bincount(minlength=64)
    expected = 59 * 16 * 16 / 64
    assert ((counts - expected).abs() < 5 * expected**0.5).all()
    assert len({tuple(mask.tolist()) for mask in torch.cat(masks)}) == 59 * 16


@pytest.mark.parametrize("recipe", ["flip", "clipa"])
def test_full_tokens_are_clip_bit_for_bit(
    tmp_path: Path, data: dict[str, Path], chosen: Any, recipe: str
) -> None:
    """Trained on full tokens all the way, with a tuning that is none: the same weights."""
    settings = WHOLE[recipe] | {"tuning": TUNING | {"share": 0.0}}
    clip = chosen("clip", {"temperature_init": 0.07})
    for name, params in (("clip", clip), (recipe, chosen(recipe, settings))):
        stage.run(params, **data, checkpoint=tmp_path / name)
    one, other = (
        safetensors.torch.load_file(tmp_path / name / checkpoint.WEIGHTS)
        for name in ("clip", recipe)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("recipe", "settings"), [("flip", FLIP), ("clipa", CLIPA)])
@pytest.mark.parametrize("saved_at", [3, 4, 5])
def test_resumed_around_the_boundary_it_ends_the_same(
    tmp_path: Path, data: dict[str, Path], chosen: Any,
    recipe: str, settings: dict[str, Any], saved_at: int,
) -> None:  # fmt: skip
    """The boundary is after step 4 of 6; each step is logged with the number of its phase."""
    params = chosen(recipe, settings, checkpoint_every=saved_at, log_every=1)
    stage.run(params, **data, checkpoint=tmp_path / "straight")
    with power_cut(after=saved_at):
        stage.run(params, **data, checkpoint=tmp_path / "resumed")
    stage.run(params, **data, checkpoint=tmp_path / "resumed")
    one, other = (
        safetensors.torch.load_file(tmp_path / name / checkpoint.WEIGHTS)
        for name in ("straight", "resumed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    history = pq.read_table(tmp_path / "resumed" / checkpoint.HISTORY).to_pydict()
    assert history["phase"] == [0, 0, 0, 0, 1, 1]
    assert "phase" not in phases.number(chosen("clip", {"temperature_init": 0.07}), 3)


def test_refusals(chosen: Any) -> None:
    with pytest.raises(
        ParamsError, match=r"pretrain\.patch_dropout: expected 0\.0, since recipe 'flip'"
    ):
        chosen("flip", FLIP, patch_dropout=0.3)
    with pytest.raises(
        ParamsError, match=r"pretrain\.patch_dropout: expected 0\.0, since recipe 'clipa'"
    ):
        chosen("clipa", CLIPA, patch_dropout=0.3)
    with pytest.raises(
        ParamsError,
        match=r"0\.75 of the image patches are to be left out, and 'clipflow-tiny' has none",
    ):
        stage.build(chosen("flip", FLIP, architecture="clipflow-tiny"))
    with pytest.raises(ParamsError, match="recipe 'clipa' needs patches and words"):
        stage.build(chosen("clipa", CLIPA, architecture="clipflow-tiny"))
    with pytest.raises(ParamsError, match=r"0\.5 of the image patches are to be left out"):
        stage.build(chosen("clip", {"temperature_init": 0.07}, patch_dropout=0.5,
                           architecture="clipflow-tiny"))  # fmt: skip


@pytest.mark.parametrize(("recipe", "settings"), [("flip", FLIP), ("clipa", CLIPA)])
def test_the_plan_has_the_cost_of_each_phase(
    chosen: Any, recipe: str, settings: dict[str, Any]
) -> None:
    params = chosen(recipe, settings, steps=100, batch_size=64, architecture="ViT-B-16")
    flops = {}
    found = planning.plan(params, devices=1, device_type="h100", price=2.0, tokens_per_text=32)
    plain = planning.plan(
        chosen("clip", {"temperature_init": 0.07}, steps=100, batch_size=64, architecture="ViT-B-16"),
        devices=1, device_type="h100", price=2.0, tokens_per_text=32,
    )  # fmt: skip
    flops = [phase.flops_per_sample for phase in found.by_phase]
    assert flops[1] == pytest.approx(plain.flops_per_sample)
    assert flops[0] < 0.5 * flops[1]
    assert found.hours == pytest.approx(sum(p.steps * p.step_s for p in found.by_phase) / 3600)
    assert found.hours < 0.7 * plain.hours
    assert found.memory_gib == pytest.approx(plain.memory_gib)  # of the phase that needs the most
    text = planning.describe(found, params, 1, "h100")
    assert "phase 0" in text
    assert "49 of 196 patches" in text if recipe == "flip" else "images of 112 px" in text
    assert "phase" not in planning.describe(plain, params, 1, "h100").split("run", 1)[1][60:]
