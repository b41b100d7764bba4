"""The conformance suite: what every file in recipes/ must do, found without being asked.

Two processes equal one: tests/distributed.
"""

from __future__ import annotations

import inspect
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from clipflow.cli import app
from clipflow.errors import ParamsError
from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.similarity import Similarity
from clipflow.model.towers import Towers
from clipflow.pretrain import stage
from clipflow.pretrain.params import Params
from clipflow.recipes import CATALOGUE, Recipe, shown
from fakes.artifacts import ROOT, tokenized
from fakes.recipes import architecture

NAMES = CATALOGUE.names()
REWRITES = ["a crimson automobile parked outside", "one car, red", "vehicle", "there is a red car"]
WORDS = [
    f"{colour} {thing}" for colour in ("red", "blue", "green", "pink") for thing in ("car", "hat")
]


@pytest.fixture(params=NAMES)
def chosen(request: pytest.FixtureRequest, values: dict[str, Any], stage_params: Any) -> Params:
    values["recipes"]["alip"]["average_init"] = 0.0  # from 1 its weights rise while its losses fall
    section = stage_params(
        "pretrain", recipe=request.param, architecture=architecture(request.param)
    )
    assert isinstance(section, Params)
    return section


@pytest.fixture
def recipe(chosen: Params) -> Recipe:
    return chosen.recipe


@pytest.fixture
def towers(chosen: Params) -> Towers:
    torch.manual_seed(0)
    return stage.build(chosen)


def batch(chosen: Params, towers: Towers) -> Batch:
    rng = random.Random(0)
    texts = [chosen.texts_of(f"a {w}", [f"the {w} here", f"{w} seen"], rng) for w in WORDS]
    images = noise(len(WORDS))
    return Batch(images, tokenized(towers, texts), views=views(chosen.recipe, images))


def views(recipe: Recipe, images: torch.Tensor) -> torch.Tensor | None:
    """Those that the recipe shows besides."""
    rng = random.Random(0)
    shown = [
        [recipe.view(image, 64, rng) for _ in range(recipe.num_views)]
        for image in map(Image.fromarray, images.numpy())
    ]
    return torch.from_numpy(np.stack(shown)) if recipe.num_views else None


def noise(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, 64, 64, 3), dtype=torch.uint8, generator=generator)


def test_has_a_params_line_and_cites_its_source(recipe: Recipe) -> None:
    catalogue = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["recipes"]
    assert recipe.name in catalogue
    text = inspect.getdoc(inspect.getmodule(type(recipe))) or ""
    assert re.search(r"Source: .*\(arXiv:\d{4}\.\d{4,5}\)", text, re.DOTALL)


def test_readme_lists_the_recipes_as_the_command_does() -> None:
    shown = CliRunner().invoke(app, ["recipes"]).output
    assert shown in (ROOT / "README.md").read_text()
    rows = [line.split("|") for line in shown.splitlines()[2:]]
    assert [row[1].strip(" `") for row in rows] == NAMES
    assert all(cell.strip() for row in rows for cell in row[1:-1])
    assert all(re.search(r"\d{4}, arXiv:\d{4}\.\d{4,5} *$", row[3]) for row in rows)


def test_shows_the_same_number_of_texts_whatever_the_pair_has(chosen: Params) -> None:
    rng = random.Random(0)
    shown = [chosen.texts_of("a red car", REWRITES[:n], rng) for n in range(len(REWRITES) + 1)]
    assert len({len(texts) for texts in shown}) == 1
    assert all(text in ["a red car", *REWRITES] for texts in shown for text in texts)


def test_loss_is_finite_and_reaches_both_towers(chosen: Params, towers: Towers) -> None:
    losses = chosen.recipe.objective(towers)(batch(chosen, towers))
    assert torch.isfinite(losses["loss"])
    losses["loss"].backward()
    trained = {name: p for name, p in towers.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert torch.isfinite(parameter.grad).all(), name
    for tower in (towers.clip.visual, towers.clip.text):
        assert any(p.grad.abs().max() > 0 for p in tower.parameters())


def test_in_bfloat16_the_loss_is_nearly_that_of_float32(chosen: Params, towers: Towers) -> None:
    """As `precision: auto` trains on GPUs."""
    losses = []
    for half in (False, True):
        torch.manual_seed(0)
        objective = chosen.recipe.objective(towers)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(objective(batch(chosen, towers))["loss"])
        losses[-1].backward()
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.02, abs=1e-3)


def test_overfits_one_batch(chosen: Params, towers: Towers) -> None:
    """Every image comes to have its own text nearest to it, and every text its image."""
    objective = chosen.recipe.objective(towers)
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    fixed = batch(chosen, towers)
    similarity: Similarity | None = getattr(objective, "similarity", None)
    embed = objective.embed if similarity else Contrastive(towers).embed
    scores = similarity.scores if similarity else lambda one, other: one @ other.T
    losses, own, found = [], torch.arange(len(WORDS)), []
    while len(losses) < 160 and not all(map(own.equal, found or [own * 0])):
        for _ in range(20):
            loss = objective(fixed)["loss"]
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        image, text = embed(fixed)
        found = [scores(image, text[:, 0]).argmax(1), scores(text[:, 0], image).argmax(1)]
    assert losses[-1] < losses[0] - 0.5
    assert all(map(own.equal, found))


def test_gradient_caching_changes_nothing(chosen: Params) -> None:
    """Chunks of 3 of 8 samples: the same loss and gradients."""
    results = []
    for chunk_size in (None, 3):
        torch.manual_seed(0)
        towers = stage.build(chosen.model_copy(update={"chunk_size": chunk_size}))
        loss = chosen.recipe.objective(towers)(batch(chosen, towers))["loss"]
        loss.backward()
        results.append((loss, [p.grad for p in towers.parameters() if p.grad is not None]))
    (loss, gradients), (cached, from_cache) = results
    torch.testing.assert_close(cached, loss)
    torch.testing.assert_close(from_cache, gradients, atol=1e-5, rtol=1e-3)


def test_left_out_patches_are_not_seen(chosen: Params, towers: Towers) -> None:
    """An objective that passes its batch's patches on can't tell what the other patches show."""
    objective, half = chosen.recipe.objective(towers.eval()).eval(), batch(chosen, towers)
    images = half.images.clone()
    images[:, :, 32:] = 255 - images[:, :, 32:]
    left = torch.arange(64).view(8, 8)[:, :4].flatten().repeat(len(images), 1)
    torch.manual_seed(0)
    seen = objective(half._replace(patches=left))["loss"]
    torch.manual_seed(0)
    assert torch.equal(objective(half._replace(patches=left, images=images))["loss"], seen)


def test_laclip_draws_uniformly_and_keeps_no_one_word_text(stage_params: Any) -> None:
    """P(original) = P(each rewrite) = 1/5; "vehicle" gives way to the original, which has 2/5."""
    laclip = stage_params("pretrain", recipe="laclip")
    rng = random.Random(0)
    drawn = [laclip.texts_of("a red car", REWRITES, rng)[0] for _ in range(10_000)]
    assert "vehicle" not in drawn
    assert drawn.count("a red car") / 10_000 == pytest.approx(0.4, abs=0.02)
    for text in (REWRITES[0], REWRITES[1], REWRITES[3]):
        assert drawn.count(text) / 10_000 == pytest.approx(0.2, abs=0.02)


def test_a_draw_is_one_call_of_the_random_numbers() -> None:
    """What was drawn before text policies had names, so that runs go on as they began."""
    ours, theirs = random.Random(3), random.Random(3)
    for _ in range(50):
        assert shown("drawn", "a red car", REWRITES[:2], ours) == [
            theirs.choice(["a red car", *REWRITES[:2]])
        ]
    assert ours.getstate() == theirs.getstate()


@pytest.mark.parametrize(("named", "texts"), [("laclip", "drawn"), ("laclip_mt", 3)])
def test_any_recipe_takes_any_texts(stage_params: Any, named: str, texts: str | int) -> None:
    """clip with LaCLIP's texts shows what LaCLIP shows, number by number."""
    by_name = stage_params("pretrain", recipe=named)
    by_policy = stage_params("pretrain", recipe="clip", texts=texts)
    for seed in range(50):
        one, other = (
            section.texts_of("a red car", REWRITES, random.Random(seed))
            for section in (by_name, by_policy)
        )
        assert one == other


def test_a_number_shows_the_first_rewrites_and_fills_up_with_the_caption() -> None:
    rng = random.Random(0)
    assert shown(3, "a red car", REWRITES, rng) == ["a red car", *REWRITES[:2]]
    assert shown(3, "a red car", REWRITES[:1], rng) == ["a red car", REWRITES[0], "a red car"]
    assert shown(1, "a red car", REWRITES, rng) == ["a red car"]


def test_texts_that_a_recipe_fixes_are_not_overridden(stage_params: Any) -> None:
    assert stage_params("pretrain", recipe="laclip", texts="drawn").texts == "drawn"
    with pytest.raises(ParamsError, match=r"pretrain\.texts: expected null, since recipe 'laclip'"):
        stage_params("pretrain", recipe="laclip", texts="caption")
    with pytest.raises(ParamsError, match=r"pretrain\.texts"):
        stage_params("pretrain", recipe="clip", texts="rewrites")


def test_laclip_without_rewrites_is_clip(stage_params: Any) -> None:
    losses, towers = [], Towers("clipflow-tiny", 0.07)
    for name in ("clip", "laclip", "laclip_mt"):
        section = stage_params("pretrain", recipe=name)
        texts = [section.texts_of(f"a {w}", [], random.Random(0)) for w in WORDS]
        objective = section.recipe.objective(towers)
        losses.append(objective(Batch(noise(len(WORDS)), tokenized(towers, texts)))["loss"])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_align_without_smoothing_is_clip_bit_for_bit(values: dict[str, Any]) -> None:
    towers = Towers("clipflow-tiny", 0.07)
    texts = tokenized(towers, [[f"a {w}"] for w in WORDS])
    results = []
    for name, changes in (("clip", {}), ("align", {"smoothing": 0.0}), ("align", {})):
        settings = values["recipes"][name] | changes
        recipe = CATALOGUE.load(name)(name=name, **settings)
        assert isinstance(recipe, Recipe)
        towers.zero_grad()
        loss = recipe.objective(towers)(Batch(noise(len(WORDS)), texts))["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in towers.parameters())])
    clip, unsmoothed, smoothed = results
    assert all(map(torch.equal, unsmoothed, clip))
    assert not torch.equal(smoothed[0], clip[0])


def test_clip_never_sees_a_rewrite(stage_params: Any) -> None:
    clip = stage_params("pretrain", recipe="clip")
    assert clip.texts_of("a red car", REWRITES, random.Random(0)) == ["a red car"]
