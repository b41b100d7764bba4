"""ALIP: limit cases, planted mismatches found by training, and its averages over a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from clipflow.model.batch import Batch
from clipflow.model.towers import Towers
from clipflow.pretrain.resume import Parts, Scratch, State
from clipflow.recipes import CATALOGUE, Recipe
from fakes.artifacts import make_pairs, tokenized

COLOURS = {
    "crimson": ("red", (220, 20, 20)), "jade": ("green", (20, 180, 40)),
    "navy": ("blue", (20, 30, 200)), "lemon": ("yellow", (230, 230, 40)),
    "violet": ("purple", (130, 20, 140)), "teal": ("cyan", (20, 200, 210)),
    "coal": ("black", (10, 10, 10)), "snow": ("white", (245, 245, 245)),
}  # fmt: skip
"""What alt-texts call a colour, what a captioner calls it, and what it looks like."""
NAMES = list(COLOURS)


def objective(values: dict[str, Any], name: str, towers: Towers, **changes: float) -> nn.Module:
    recipe = CATALOGUE.load(name)(name=name, **{**values["recipes"][name], **changes})
    assert isinstance(recipe, Recipe)
    return recipe.objective(towers)


def planted(towers: Towers, seed: int, num: int, mismatched: float) -> tuple[Batch, torch.Tensor]:
    """Noisy plain images with a true synthetic caption; so many captions are about another colour."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randint(len(NAMES), (num,), generator=generator)
    wrong = torch.rand(num, generator=generator) < mismatched
    said = (seen + wrong * torch.randint(1, len(NAMES), (num,), generator=generator)) % len(NAMES)
    pixels = torch.tensor([COLOURS[name][1] for name in NAMES])[seen]
    noise = torch.randint(-25, 26, (num, 64, 64, 3), generator=generator)
    images = (pixels[:, None, None] + noise).clamp(0, 255).to(torch.uint8)
    texts = [
        [f"my {NAMES[a]} thing", f"a photo of {COLOURS[NAMES[b]][0]}"]
        for a, b in zip(said.tolist(), seen.tolist(), strict=True)
    ]
    return Batch(images, tokenized(towers, texts)), wrong


def test_the_gates_tell_planted_mismatches_after_training(values: dict[str, Any]) -> None:
    """The two texts share no word, so that at first nothing tells; a quarter of the captions is wrong."""
    torch.manual_seed(0)
    towers = Towers("clipflow-tiny-vit", 0.07)
    trained = objective(values, "alip", towers, momentum=0.9)
    held_out, wrong = planted(towers, seed=1000, num=128, mismatched=0.25)

    def auroc() -> float:
        trained.eval()
        with torch.no_grad():
            image = towers.embed_images(held_out.images)
            texts = towers.embed_texts(held_out.texts).unbind(1)
            weights = trained.gates(image, *texts, torch.ones(128, dtype=torch.bool))[0]
        trained.train()
        return float(roc_auc_score(wrong, -weights))

    before = auroc()
    optimiser = torch.optim.AdamW(towers.parameters(), lr=3e-4)
    for step in range(30):
        batch, _ = planted(towers, seed=step, num=32, mismatched=0.25)
        trained(batch)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    assert before < 0.7
    assert auroc() > 0.9


def test_with_all_gates_open_it_is_laclip_mt_of_two_texts(values: dict[str, Any]) -> None:
    towers = Towers("clipflow-tiny", 0.07)
    batch, _ = planted(towers, seed=0, num=8, mismatched=0.5)
    expected = objective(values, "laclip_mt", towers, num_texts=2)(batch)["loss"]
    for changes in (
        {"average_init": -1.0, "momentum": 0.999999},
        {"sample_sharpness": 0.0, "pair_sharpness": 0.0},
    ):
        found = objective(values, "alip", towers, **changes)(batch)
        torch.testing.assert_close(found["loss"], expected)
        assert found["caption_weight"] == found["synthetic_weight"] == 1
    gated = objective(values, "alip", towers)(batch)
    assert gated["loss"] < 0.9 * expected
    assert gated["caption_weight"] < 0.9


def test_without_rewrites_it_is_clip_and_the_averages_stay(values: dict[str, Any]) -> None:
    towers = Towers("clipflow-tiny", 0.07)
    batch, _ = planted(towers, seed=0, num=8, mismatched=0.0)
    captions = [[f"a {name} one"] for name in NAMES]
    losses = []
    for name, num in (("clip", 1), ("alip", 2)):
        texts = tokenized(towers, [caption * num for caption in captions])
        chosen = objective(values, name, towers)
        losses.append(chosen(batch._replace(texts=texts))["loss"])
    torch.testing.assert_close(losses[1], losses[0])
    assert chosen.gates.averages.tolist() == [1, 1, 1]


@pytest.mark.parametrize("length", [1, 30])
def test_a_text_is_repeated_whatever_group_it_is_in(length: int) -> None:
    towers = Towers("clipflow-tiny", 0.07)
    versions = [[f"a {n} " + "x " * (n % length), "a b"] for n in range(40)]
    versions += [[version[0]] * 2 for version in versions]
    texts = tokenized(towers, versions)
    assert len(texts.groups) > 1
    repeated = texts.repeated()
    assert repeated[:, 0].all()
    assert repeated[:, 1].tolist() == [False] * 40 + [True] * 40


def test_a_resumed_run_goes_on_from_its_averages(
    values: dict[str, Any], stage_params: Any, tmp_path: Path
) -> None:
    """Two steps, saved, restored into new towers, two more: bit by bit those of four steps."""
    inputs = {"pairs": make_pairs(tmp_path / "pairs", {"a": "caption"})}

    def fresh(seed: int) -> Parts:
        torch.manual_seed(seed)
        model = objective(values, "alip", Towers("clipflow-tiny", 0.07))
        return {"model": model, "optimiser": torch.optim.AdamW(model.parameters(), fused=True)}

    def steps(parts: Parts, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last):
            batch, _ = planted(parts["model"].towers, seed=step, num=8, mismatched=0.25)
            loss = parts["model"](batch)["loss"]
            loss.backward()
            parts["optimiser"].step()
            parts["optimiser"].zero_grad()
            losses.append(loss.item())
        return losses

    straight, stopped, resumed = fresh(0), fresh(0), fresh(1)
    expected = steps(straight, 0, 4)
    steps(stopped, 0, 2)
    with Scratch(stage_params("pretrain", recipe="alip"), {}, inputs).locked(True) as scratch:
        scratch.save(State(step=2), stopped)
        assert scratch.restore(resumed).step == 2
    assert steps(resumed, 2, 4) == expected[2:]
    averages = resumed["model"].gates.averages
    assert torch.equal(averages, straight["model"].gates.averages)
    assert (averages < 1).all()
