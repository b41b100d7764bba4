"""The conformance suite: what every file in recipes/ must do, found without being asked.

Two processes equal one: tests/distributed.
"""

from __future__ import annotations

import inspect
import random
import re
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from clipflow import params
from clipflow.model.texts import Texts
from clipflow.model.towers import Towers
from clipflow.recipes import CATALOGUE, Recipe
from fakes.artifacts import ROOT, tokenized

NAMES = CATALOGUE.names()
REWRITES = ["a crimson automobile parked outside", "one car, red", "vehicle", "there is a red car"]
WORDS = [
    f"{colour} {thing}" for colour in ("red", "blue", "green", "pink") for thing in ("car", "hat")
]


@pytest.fixture(params=NAMES)
def recipe(request: pytest.FixtureRequest, values: dict[str, Any]) -> Recipe:
    values["pretrain"]["recipe"] = request.param
    chosen = params.parse(params.select(values, "pretrain"), "pretrain").recipe
    assert isinstance(chosen, Recipe)
    return chosen


@pytest.fixture
def towers() -> Towers:
    torch.manual_seed(0)
    return Towers("clipflow-tiny", 0.07)


def batch(recipe: Recipe, towers: Towers) -> tuple[torch.Tensor, Texts]:
    rng = random.Random(0)
    texts = [recipe.texts(f"a {w}", [f"the {w} here", f"{w} seen"], rng) for w in WORDS]
    return noise(len(WORDS)), tokenized(towers, texts)


def noise(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, 64, 64, 3), dtype=torch.uint8, generator=generator)


def test_has_a_params_line_and_cites_its_source(recipe: Recipe) -> None:
    catalogue = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["recipes"]
    assert recipe.name in catalogue
    text = inspect.getdoc(inspect.getmodule(type(recipe))) or ""
    assert re.search(r"Source: .*\(arXiv:\d{4}\.\d{4,5}\)", text, re.DOTALL)


def test_shows_the_same_number_of_texts_whatever_the_pair_has(recipe: Recipe) -> None:
    rng = random.Random(0)
    shown = [recipe.texts("a red car", REWRITES[:n], rng) for n in range(len(REWRITES) + 1)]
    assert len({len(texts) for texts in shown}) == 1
    assert all(text in ["a red car", *REWRITES] for texts in shown for text in texts)


def test_loss_is_finite_and_reaches_both_towers(recipe: Recipe, towers: Towers) -> None:
    losses = recipe.objective(towers)(*batch(recipe, towers))
    assert torch.isfinite(losses["loss"])
    losses["loss"].backward()
    for name, parameter in towers.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert torch.isfinite(parameter.grad).all(), name
    for tower in (towers.clip.visual, towers.clip.text):
        assert any(p.grad.abs().max() > 0 for p in tower.parameters())


def test_overfits_one_batch(recipe: Recipe, towers: Towers) -> None:
    objective = recipe.objective(towers)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    images, texts = batch(recipe, towers)
    losses = []
    for _ in range(40):
        loss = objective(images, texts)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_laclip_draws_uniformly_and_keeps_no_one_word_text(values: dict[str, Any]) -> None:
    """P(original) = P(each rewrite) = 1/5; "vehicle" gives way to the original, which has 2/5."""
    laclip = CATALOGUE.load("laclip")(name="laclip", **values["recipes"]["laclip"])
    rng = random.Random(0)
    drawn = [laclip.texts("a red car", REWRITES, rng)[0] for _ in range(10_000)]  # type: ignore[attr-defined]
    assert "vehicle" not in drawn
    assert drawn.count("a red car") / 10_000 == pytest.approx(0.4, abs=0.02)
    for text in (REWRITES[0], REWRITES[1], REWRITES[3]):
        assert drawn.count(text) / 10_000 == pytest.approx(0.2, abs=0.02)


def test_laclip_without_rewrites_is_clip(values: dict[str, Any], towers: Towers) -> None:
    losses = []
    for name in ("clip", "laclip", "laclip_mt"):
        recipe = CATALOGUE.load(name)(name=name, **values["recipes"][name])
        texts = [recipe.texts(f"a {w}", [], random.Random(0)) for w in WORDS]  # type: ignore[attr-defined]
        objective = recipe.objective(towers)  # type: ignore[attr-defined]
        losses.append(objective(noise(len(WORDS)), tokenized(towers, texts))["loss"])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_clip_never_sees_a_rewrite(values: dict[str, Any]) -> None:
    clip = CATALOGUE.load("clip")(name="clip", **values["recipes"]["clip"])
    assert clip.texts("a red car", REWRITES, random.Random(0)) == ["a red car"]  # type: ignore[attr-defined]
