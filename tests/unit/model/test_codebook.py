"""A shared codebook: sparsemax by its definition, codes in any order, padding without relevance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional

from clipflow.model import tiled
from clipflow.model.codebook import Codebook, sparsemax
from clipflow.model.info_nce import info_nce
from clipflow.model.token_embeddings import Tokens

DIM, CODES = 8, 12


@pytest.fixture
def codebook() -> Codebook:
    torch.manual_seed(0)
    return Codebook(CODES, DIM)


def samples(num: int = 5, length: int = 6) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(num, length, DIM, generator=generator)
    present = torch.arange(length) <= torch.arange(num)[:, None]
    return Tokens(tokens[:, 0], tokens * present[:, :, None], present)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_sparsemax_is_the_nearest_point_of_the_simplex(scale: float) -> None:
    """By quadratic programming."""
    for scores in scale * np.random.default_rng(0).normal(size=(5, 7)):
        nearest = minimize(
            lambda p, z=scores: ((p - z) ** 2).sum(),
            np.full(7, 1 / 7),
            jac=lambda p, z=scores: 2 * (p - z),
            bounds=[(0, 1)] * 7,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(7)},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        ours = sparsemax(torch.from_numpy(scores))
        np.testing.assert_allclose(ours, nearest.x, atol=1e-6)
        assert ours.sum() == pytest.approx(1)


def test_sparsemax_has_exact_zeros_and_the_gradient_of_its_values() -> None:
    scores = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (sparsemax(scores) == 0).any()
    assert torch.autograd.gradcheck(sparsemax, scores.requires_grad_())


def test_one_score_far_above_the_others_takes_all() -> None:
    assert sparsemax(torch.tensor([3.0, 1.0, 1.5])).tolist() == [1, 0, 0]
    torch.testing.assert_close(sparsemax(torch.zeros(4)), torch.full((4,), 0.25))


def test_the_order_of_codes_is_of_no_account(codebook: Codebook) -> None:
    images, texts = samples(), samples(5, 7)
    scale = torch.tensor(10.0)
    results = []
    for order in (torch.arange(CODES), torch.randperm(CODES)):
        other = Codebook(CODES, DIM)
        other.codes.data.copy_(codebook.codes[order])
        one, two = other.embed(images), other.embed(texts)
        loss = info_nce(one, two, scale)
        loss.backward()
        assert other.codes.grad is not None
        results.append([loss, one, two, other.codes.grad[order.argsort()]])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("elements", [1, 2**22])
def test_relevance_is_the_largest_product(
    codebook: Codebook, monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    """By the definition, sample by sample; padding, though its product is 0, has none."""
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", elements)
    codebook.temperature.fill_(2.0)
    found = samples()
    weights = []
    for tokens, present in zip(found.tokens, found.present, strict=True):
        relevance = (tokens[present] @ codebook.codes.T).max(0).values
        weights.append(sparsemax(relevance / 2))
    expected = torch.stack(weights)
    torch.testing.assert_close(codebook.weights(found), expected)
    unit = functional.normalize(expected @ codebook.codes, dim=1)
    torch.testing.assert_close(codebook.embed(found), unit)


def test_more_padding_and_more_texts_change_nothing(codebook: Codebook) -> None:
    found = samples()
    padded = Tokens(
        found.pooled,
        functional.pad(found.tokens, (0, 0, 0, 3)),
        functional.pad(found.present, (0, 3)),
    )
    torch.testing.assert_close(codebook.embed(padded), codebook.embed(found))
    several = Tokens(*(torch.stack([values, values], 1) for values in found))
    torch.testing.assert_close(codebook.embed(several)[:, 1], codebook.embed(found))


def test_a_lower_temperature_uses_fewer_codes(codebook: Codebook) -> None:
    used = []
    for temperature in (100.0, 1.0, 0.01):
        codebook.temperature.fill_(temperature)
        used.append(int((codebook.weights(samples()) > 0).sum()))
    assert used[0] == 5 * CODES
    assert used[0] > used[1] > used[2] == 5
