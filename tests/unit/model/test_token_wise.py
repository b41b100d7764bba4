"""Late interaction: CLIP's loss with one token each, blind to padding and to the order of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipflow.model import tiled
from clipflow.model.info_nce import info_nce
from clipflow.model.token_embeddings import Tokens
from clipflow.model.token_wise import TokenWise, both_ways, token_wise_info_nce
from fakes import dense

SCALE = torch.tensor(14.3)


@pytest.fixture(params=[1, 200, 2**22], autouse=True)
def tile_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of one pair, of some, and of all."""
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", request.param)


def loss(images: Tensor, texts: Tensor) -> list[Tensor]:
    """The loss and its gradients."""
    value = token_wise_info_nce(images, texts, SCALE)
    return [value, *torch.autograd.grad(value, (images, texts))]


def test_of_one_token_each_it_is_clips_loss() -> None:
    images, texts, *_ = dense.batch(7)
    value = info_nce(images, texts, SCALE)
    expected = [value, *torch.autograd.grad(value, (images, texts))]
    ours = token_wise_info_nce(images[:, None], texts[:, None], SCALE)
    torch.testing.assert_close([ours, *torch.autograd.grad(ours, (images, texts))], expected)


def test_it_is_the_dense_formula() -> None:
    images, texts = dense.tokens(7)
    value = dense.token_wise(images, texts, SCALE)
    torch.testing.assert_close(
        loss(images, texts), [value, *torch.autograd.grad(value, (images, texts))]
    )


def test_more_padding_changes_nothing() -> None:
    images, texts = dense.tokens(7)
    padded = functional.pad(texts.detach(), (0, 0, 0, 5)).requires_grad_()
    value, of_images, of_texts = loss(images, texts)
    again, of_images_again, of_padded = loss(images, padded)
    torch.testing.assert_close([again, of_images_again], [value, of_images])
    torch.testing.assert_close(of_padded[:, : texts.shape[1]], of_texts)
    assert not of_padded[:, texts.shape[1] :].any()


def test_padding_is_no_candidate_even_where_all_words_are_opposite() -> None:
    image = torch.tensor([[[1.0, 0.0]]])
    text = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    to_text, to_image = both_ways(image, text)
    assert to_text.tolist() == to_image.tolist() == [[-1.0]]
    similarity = TokenWise(2)
    assert similarity.scores(image.flatten(1), text.flatten(1)).tolist() == [[-1.0]]
    assert similarity.scores(text.flatten(1), image.flatten(1)).tolist() == [[-1.0]]


def test_the_order_of_tokens_is_of_no_account() -> None:
    images, texts = dense.tokens(7)
    value, of_images, of_texts = loss(images, texts)
    order = torch.randperm(images.shape[1], generator=torch.Generator().manual_seed(1))
    ordered = images.detach()[:, order].requires_grad_()
    torch.testing.assert_close(loss(ordered, texts), [value, of_images[:, order], of_texts])


def test_scores_are_those_of_training_both_ways() -> None:
    images, texts = (tokens.detach() for tokens in dense.tokens(7))
    similarity = TokenWise(images.shape[2])
    to_texts, to_images = both_ways(images, texts)
    torch.testing.assert_close(similarity.scores(images.flatten(1), texts.flatten(1)), to_texts)
    torch.testing.assert_close(similarity.scores(texts.flatten(1), images.flatten(1)).T, to_images)
    assert not torch.allclose(to_texts, to_images)


def test_a_sample_is_its_unit_tokens_and_zeros() -> None:
    tokens = torch.randn(3, 4, 8)
    present = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    similarity = TokenWise(8)
    found = similarity.tokens(similarity.embed(Tokens(tokens[:, 0], tokens, present)))
    torch.testing.assert_close(found.norm(dim=-1), present.float())
    torch.testing.assert_close(found[0], functional.normalize(tokens[0], dim=-1))
    expected = functional.normalize(functional.normalize(tokens[1, :2], dim=-1).mean(0), dim=-1)
    torch.testing.assert_close(similarity.summary(found.flatten(1))[1], expected)
