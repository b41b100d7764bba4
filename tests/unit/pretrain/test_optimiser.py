"""The learning rate by hand; what decays and what doesn't."""

from __future__ import annotations

from typing import Any

import pytest

from clipflow.model.towers import Towers
from clipflow.pretrain.optimiser import adamw, learning_rate


def test_schedule(stage_params: Any) -> None:
    params = stage_params("pretrain", steps=110, warmup_steps=10, lr=1e-3, lr_min=1e-5)
    assert learning_rate(0, params) == pytest.approx(1e-6)
    assert learning_rate(5, params) == pytest.approx(1e-6 + (1e-3 - 1e-6) / 2)
    assert learning_rate(10, params) == pytest.approx(1e-3)
    assert learning_rate(60, params) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(110, params) == pytest.approx(1e-5)


def test_only_matrices_decay(stage_params: Any) -> None:
    params = stage_params("pretrain", weight_decay=0.5)
    towers = Towers("clipflow-tiny", 0.07)
    decayed, plain = adamw(towers, params).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert (decayed["betas"], decayed["eps"]) == ((0.9, 0.98), 1e-8)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert any(p is towers.clip.logit_scale for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(towers.parameters()))
