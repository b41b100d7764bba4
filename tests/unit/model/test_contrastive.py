"""InfoNCE by hand, and as open_clip computes it."""

from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn import functional

from clipflow.model.contrastive import info_nce


def test_by_hand() -> None:
    """Two orthogonal pairs at scale ln 3: each row is softmax(ln 3, 0), so the loss is ln(4/3)."""
    rows = torch.eye(2)
    assert info_nce(rows, rows, torch.tensor(math.log(3))).item() == pytest.approx(math.log(4 / 3))


def test_indistinguishable_pairs_cost_ln_n() -> None:
    same = functional.normalize(torch.ones(5, 3), dim=1)
    assert info_nce(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(5))


def test_equals_open_clip() -> None:
    torch.manual_seed(0)
    images, texts = (functional.normalize(torch.randn(16, 8), dim=1) for _ in range(2))
    scale = torch.tensor(14.3)
    torch.testing.assert_close(info_nce(images, texts, scale), ClipLoss()(images, texts, scale))


def test_symmetric_and_invariant_to_order() -> None:
    torch.manual_seed(0)
    images, texts = (functional.normalize(torch.randn(16, 8), dim=1) for _ in range(2))
    scale, order = torch.tensor(5.0), torch.randperm(16)
    loss = info_nce(images, texts, scale)
    torch.testing.assert_close(info_nce(texts, images, scale), loss)
    torch.testing.assert_close(info_nce(images[order], texts[order], scale), loss)
