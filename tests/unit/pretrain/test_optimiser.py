"""The learning rate by hand; what decays, what learns more slowly, which steps are left out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from clipflow.model.towers import Towers
from clipflow.pretrain.average import Average
from clipflow.pretrain.optimiser import (
    adamw,
    clip_gradients,
    learning_rate,
    set_learning_rate,
    step_unless,
)


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [
        ("cosine", (1e-3 + 1e-5) / 2, 1e-5),
        ("linear", (1e-3 + 1e-5) / 2, 1e-5),
        ("constant", 1e-3, 1e-3),
    ],
)
def test_schedule(stage_params: Any, schedule: str, middle: float, last: float) -> None:
    params = stage_params(
        "pretrain", steps=110, warmup_steps=10, lr=1e-3, lr_min=1e-5, schedule=schedule
    )
    assert learning_rate(0, params) == pytest.approx(1e-6)
    assert learning_rate(5, params) == pytest.approx(1e-6 + (1e-3 - 1e-6) / 2)
    assert learning_rate(10, params) == pytest.approx(1e-3)
    assert learning_rate(60, params) == pytest.approx(middle)
    assert learning_rate(110, params) == pytest.approx(last)


def test_cosine_and_linear_differ_on_the_way(stage_params: Any) -> None:
    quarter = {
        schedule: learning_rate(25, stage_params("pretrain", steps=100, warmup_steps=0, lr=1.0,
                                                 lr_min=0.0, schedule=schedule))
        for schedule in ("cosine", "linear")
    }  # fmt: skip
    assert quarter == {"cosine": pytest.approx(0.853553), "linear": pytest.approx(0.75)}


def test_only_matrices_decay(stage_params: Any) -> None:
    params = stage_params("pretrain", weight_decay=0.5, beta1=0.8, beta2=0.95, eps=1e-6)
    towers = Towers("clipflow-tiny", 0.07)
    decayed, plain = sorted(
        adamw(towers, towers, params).param_groups, key=lambda group: -group["weight_decay"]
    )
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert (decayed["betas"], decayed["eps"]) == ((0.8, 0.95), 1e-6)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert any(p is towers.clip.logit_scale for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(towers.parameters()))


def factor_of(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> float:
    (factor,) = (
        group["lr_factor"]
        for group in optimiser.param_groups
        if any(p is parameter for p in group["params"])
    )
    return float(factor)


def test_factors_by_tower_and_layer(stage_params: Any) -> None:
    """A ViT of 10 layers: its projection 1, its last layer 0.5, its first 0.5^10, its patches 0.5^11."""
    params = stage_params("pretrain", lr_factors={"image": 0.1}, layer_decay=0.5, lr=1.0)
    towers = Towers("ViT-S-32-alt", 0.07)
    optimiser = adamw(towers, towers, params)
    visual, text = towers.clip.visual, towers.clip.text
    last = len(visual.transformer.resblocks)
    assert factor_of(optimiser, visual.proj) == pytest.approx(0.1)
    assert factor_of(optimiser, visual.ln_post.weight) == pytest.approx(0.1)
    assert factor_of(optimiser, visual.transformer.resblocks[-1].ln_1.weight) == pytest.approx(0.05)
    assert factor_of(optimiser, visual.transformer.resblocks[0].ln_1.weight) == pytest.approx(
        0.1 * 0.5**last
    )
    for parameter in (visual.conv1.weight, visual.class_embedding, visual.positional_embedding):
        assert factor_of(optimiser, parameter) == pytest.approx(0.1 * 0.5 ** (last + 1))
    assert factor_of(optimiser, text.ln_final.weight) == 1
    assert factor_of(optimiser, text.transformer.resblocks[-1].attn.in_proj_weight) == 0.5
    assert factor_of(optimiser, towers.clip.logit_scale) == 1
    set_learning_rate(optimiser, params.warmup_steps, params)
    assert all(group["lr"] == pytest.approx(group["lr_factor"]) for group in optimiser.param_groups)


def test_locked_towers_are_left_out(stage_params: Any) -> None:
    towers = Towers("clipflow-tiny", 0.07)
    towers.lock("image")
    optimised = {
        p for g in adamw(towers, towers, stage_params("pretrain")).param_groups for p in g["params"]
    }
    assert optimised == {*towers.clip.text.parameters(), towers.clip.logit_scale}


class Two(nn.Module):
    """A matrix and a vector, with gradients."""

    def __init__(self, gradient: float) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))
        self.set(gradient)

    def set(self, gradient: float) -> None:
        for parameter in self.parameters():
            parameter.grad = torch.full_like(parameter, gradient)


def test_a_skipped_step_leaves_everything_as_it_is() -> None:
    """Weights, moments and the count of steps; the next step is the one that would have been."""
    ours, plain = Two(0.5), Two(0.5)
    mine = torch.optim.AdamW(ours.parameters(), lr=0.1, fused=True)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.1, fused=True)
    for skipped, gradient in ((False, 0.5), (True, float("nan")), (False, -0.2)):
        ours.set(gradient)
        before = copy.deepcopy((ours.state_dict(), mine.state_dict()["state"]))
        step_unless(mine, torch.tensor(float(skipped)))
        if skipped:
            after = (ours.state_dict(), mine.state_dict()["state"])
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        else:
            plain.set(gradient)
            reference.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_gradients_are_clipped_to_a_norm() -> None:
    """Seven elements of 3: norm 3 sqrt(7) = 7.937, cut to 1; a smaller one stays."""
    model = Two(3.0)
    assert clip_gradients(model, None).item() == pytest.approx(7.937, abs=1e-3)
    assert clip_gradients(model, 1.0).item() == pytest.approx(7.937, abs=1e-3)
    assert clip_gradients(model, None).item() == pytest.approx(1.0, abs=1e-4)
    assert clip_gradients(model, 2.0).item() == pytest.approx(1.0, abs=1e-4)
    assert clip_gradients(model, None).item() == pytest.approx(1.0, abs=1e-4)


def test_the_average_by_hand() -> None:
    """From 1, decay 0.9: weights 2, then 3 give 1.1, then 1.29."""
    model = Two(0.0)
    average = Average(model, 0.9)
    for weight in (2.0, 3.0):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(weight)
        average.update()
    again = Average(Two(0.0), 0.9)
    again.load_state_dict(average.state_dict())
    average.copy_to_weights()
    assert torch.allclose(model.matrix, torch.tensor(1.29))
    assert torch.allclose(again.values["vector"], torch.tensor(1.29))
