"""DreamLIP: limit cases, the grouping loss by its usual formula, and what it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from clipflow.errors import ParamsError
from clipflow.model.batch import Batch
from clipflow.model.grouping import grouped_patches
from clipflow.model.token_embeddings import embed_image_tokens
from clipflow.model.towers import Towers
from clipflow.recipes import CATALOGUE, Recipe
from fakes import dense
from fakes.artifacts import tokenized


def objective(values: dict[str, Any], name: str, towers: Towers, **changes: float) -> nn.Module:
    recipe = CATALOGUE.load(name)(name=name, **{**values["recipes"][name], **changes})
    assert isinstance(recipe, Recipe)
    return recipe.objective(towers)


@pytest.fixture
def towers() -> Towers:
    torch.manual_seed(0)
    return Towers("clipflow-tiny-vit", 0.07)


def batch(towers: Towers, num_texts: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 64, 64, 3), dtype=torch.uint8, generator=generator)
    texts = [[f"text {t} of image {i}" for t in range(num_texts)] for i in range(6)]
    return Batch(images, tokenized(towers, texts))


@pytest.mark.parametrize(("num_texts", "peer"), [(1, "clip"), (3, "laclip_mt")])
def test_without_grouping_it_is_clip_or_laclip_mt_bit_for_bit(
    values: dict[str, Any], towers: Towers, num_texts: int, peer: str
) -> None:
    shown = batch(towers, num_texts)
    ours = objective(values, "dreamlip", towers, grouping_weight=0.0)(shown)
    assert torch.equal(ours["loss"], objective(values, peer, towers)(shown)["loss"])


def test_grouping_contrasts_over_the_whole_batch(values: dict[str, Any], towers: Towers) -> None:
    """The dense InfoNCE of 6 x 3 groups with 6 x 3 texts: an image's other texts are negatives."""
    shown = batch(towers, 3)
    found = objective(values, "dreamlip", towers, grouping_weight=0.5)(shown)
    texts = towers.embed_texts(shown.texts)
    patches = embed_image_tokens(towers, shown.images).tokens
    groups = grouped_patches(patches, texts, None)
    expected = dense.info_nce(groups.flatten(0, 1), texts.flatten(0, 1), towers.scale)
    torch.testing.assert_close(found["grouping_loss"], expected)
    plain = objective(values, "laclip_mt", towers)(shown)["loss"]
    torch.testing.assert_close(found["contrastive_loss"], plain)
    torch.testing.assert_close(found["loss"], plain + 0.5 * expected)


def test_a_tower_without_patches_is_refused_where_they_are_needed(values: dict[str, Any]) -> None:
    towers = Towers("clipflow-tiny", 0.07)
    with pytest.raises(ParamsError, match=r"pretrain\.architecture: recipe 'dreamlip' needs"):
        objective(values, "dreamlip", towers)
    objective(values, "dreamlip", towers, grouping_weight=0.0)
