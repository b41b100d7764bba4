"""Towers: open_clip's, with text cut to what is there, and checkpoints that open_clip loads."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from clipflow.errors import ParamsError
from clipflow.model.towers import Towers

TEXTS = [
    "a red car",
    "two green boats beside a very small yellow house | Brand 123",
    "!",
    "hi!there",
]


@pytest.fixture(scope="module")
def towers() -> Towers:
    torch.manual_seed(0)
    return Towers("clipflow-tiny", temperature_init=0.07).eval()


def test_trimmed_text_is_exact(towers: Towers) -> None:
    """Values and gradients equal those at the full context length (causal tower, pooled at its end)."""
    full, cut = towers.tokenizer(TEXTS), towers.tokenize(TEXTS)
    assert cut.shape[1] < full.shape[1] == 77
    grads = []
    for tokens in (full, cut):
        towers.zero_grad()
        embedded = towers.text(tokens)
        embedded.square().mul(torch.arange(128)).sum().backward()
        grads.append((embedded.detach(), towers.clip.text.token_embedding.weight.grad.clone()))
    for whole, trimmed in zip(*grads, strict=True):
        torch.testing.assert_close(trimmed, whole, atol=2e-6, rtol=1e-5)


def test_nothing_is_cut_off(towers: Towers) -> None:
    for text in TEXTS:
        end = towers.tokenizer([text])[0].argmax() + 1
        assert towers.tokenize([text]).shape[1] == end
    assert towers.tokenize(["word " * 200]).shape[1] == 77


@pytest.mark.parametrize(
    "text_cfg", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}], ids=str
)
def test_towers_that_see_padding_are_not_trimmed(
    tmp_path: Path, text_cfg: dict[str, object]
) -> None:
    config = open_clip.get_model_config("clipflow-tiny")
    config["text_cfg"] |= text_cfg
    name = "sees-padding-" + "-".join(text_cfg)
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    towers = Towers(name, 0.07)
    tokens = towers.tokenize(["hi"])
    assert tokens.shape[1] == 77
    assert towers.text(tokens).shape == (1, 128)


def test_captioners_are_refused() -> None:
    with pytest.raises(ParamsError, match="has a captioning decoder"):
        Towers("coca_base", 0.07)


def test_embeddings_have_unit_length(towers: Towers) -> None:
    images = towers.image(torch.randn(3, 3, 64, 64))
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))


def test_scale_starts_at_the_inverse_temperature_and_is_clamped() -> None:
    towers = Towers("clipflow-tiny", temperature_init=0.05)
    assert towers.scale.item() == pytest.approx(20)
    for value, clamped in ((9.0, 100.0), (-3.0, 1.0)):
        towers.clip.logit_scale.data.fill_(value)
        towers.clamp_scale()
        assert towers.scale.item() == pytest.approx(clamped)


def test_unknown_architecture() -> None:
    with pytest.raises(ParamsError, match="no architecture 'ViT-B-17'; did you mean 'ViT-B-16'"):
        Towers("ViT-B-17", 0.07)


def test_no_network_where_a_tower_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ParamsError, match="'roberta-ViT-B-32' needs files from the Hugging Face hub"
    ):
        Towers("roberta-ViT-B-32", 0.07)
