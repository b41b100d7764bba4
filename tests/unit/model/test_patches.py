"""Fewer patches: of some of an image's, and of a smaller image's."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import PatchDropout
from torch.nn import functional

from clipflow.model.patches import embedded, interpolated
from clipflow.model.token_embeddings import embed_image_tokens
from clipflow.model.towers import Towers


@pytest.fixture(scope="module")
def towers() -> Towers:
    torch.manual_seed(0)
    return Towers("clipflow-tiny-vit", 0.07).eval()


def images(num: int = 2, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, side, side, 3), dtype=torch.uint8, generator=generator)


def test_all_patches_are_open_clips_own_forward_bit_for_bit(towers: Towers) -> None:
    pixels = towers.normalise(images())
    theirs = towers.clip.visual._embeds(pixels)
    assert torch.equal(embedded(towers.clip.visual, pixels), theirs)
    every = torch.arange(64).repeat(2, 1)
    assert torch.equal(embedded(towers.clip.visual, pixels, every), theirs)
    assert torch.equal(towers.embed_images(images(), every), towers.embed_images(images()))


def test_left_out_patches_are_those_that_open_clips_dropout_leaves_out(towers: Towers) -> None:
    """With the random numbers of its PatchDropout: the same tokens."""
    pixels, visual = towers.normalise(images()), towers.clip.visual
    torch.manual_seed(3)
    kept = torch.randn(2, 64).topk(16, dim=1).indices
    every = visual._embeds(pixels)
    torch.manual_seed(3)
    theirs = PatchDropout(0.75).train()(every)
    torch.testing.assert_close(embedded(visual, pixels, kept), theirs)
    seen = embed_image_tokens(towers, images(), kept)
    assert seen.tokens.shape[1] == 16
    torch.testing.assert_close(seen.pooled, towers.embed_images(images(), kept))


def test_positions_of_the_full_grid_are_themselves(towers: Towers) -> None:
    positions = towers.clip.visual.positional_embedding
    assert interpolated(positions, (8, 8), (8, 8)) is positions


def test_interpolated_positions_are_those_between(towers: Towers) -> None:
    """A position that grows evenly over the grid does so over half of it; the class token keeps its own."""
    rows = torch.arange(8.0).repeat_interleave(8)
    positions = torch.cat([torch.tensor([-7.0]), rows])[:, None]
    half = interpolated(positions, (8, 8), (4, 4))
    assert half[0].item() == -7
    middle = half[1:, 0].view(4, 4)[1:3]
    torch.testing.assert_close(
        middle, torch.tensor([2.5, 4.5])[:, None].expand(2, 4), atol=0.05, rtol=0
    )


def test_a_smaller_image_is_a_quarter_of_the_tokens_and_alike(towers: Towers) -> None:
    """A plain image shows the same at half the side, but for its positions; gradients reach them."""
    plain = torch.full((1, 64, 64, 3), 90, dtype=torch.uint8)
    visual = towers.clip.visual
    assert embedded(visual, towers.normalise(plain[:, :32, :32])).shape[1] == 1 + 16
    whole, small = towers.embed_images(plain), towers.embed_images(plain[:, :32, :32])
    assert functional.cosine_similarity(whole, small).item() > 0.9
    (gradient,) = torch.autograd.grad(
        towers.embed_images(images(side=32)).sum(), visual.positional_embedding
    )
    assert (gradient.abs().sum(1) > 0).all()
