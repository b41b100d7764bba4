"""Towers: open_clip's, with text cut to what is there, and checkpoints that open_clip loads."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torchvision.transforms import v2

from clipflow.errors import ParamsError
from clipflow.model import blocks
from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from fakes.artifacts import tokenized

TINY_VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
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


@pytest.mark.parametrize("architecture", ["clipflow-tiny", "tiny-vit"])
def test_same_outputs_and_gradients_as_open_clips_own_forward(architecture: str) -> None:
    """Whole texts, all positions of the last block, no groups: embeddings and gradients agree."""
    add_tiny_vit()
    towers = Towers(architecture, 0.07)
    reference = copy.deepcopy(towers.clip)
    for tower in (reference.visual, reference.text):
        for block in getattr(getattr(tower, "transformer", None), "resblocks", []):
            block.__class__ = ResidualAttentionBlock
    size = towers.image_size_px
    images = torch.randint(256, (len(TEXTS), size, size, 3), dtype=torch.uint8)
    ours = (
        towers.embed_images(images),
        towers.embed_texts(tokenized(towers, [[text] for text in TEXTS]))[:, 0],
    )
    theirs = (
        reference.encode_image(towers.normalise(images), normalize=True),
        reference.encode_text(towers.tokenizer(TEXTS), normalize=True),
    )
    for tower, mine, expected in zip(("visual", "text"), ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, atol=2e-6, rtol=1e-5)
        weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(0))
        (mine * weights).sum().backward()
        (expected * weights).sum().backward()
        gradients = dict(getattr(reference, tower).named_parameters())
        for name, parameter in getattr(towers.clip, tower).named_parameters():
            assert parameter.grad is not None, name
            torch.testing.assert_close(
                parameter.grad, gradients[name].grad, atol=2e-5, rtol=1e-4, msg=name
            )


def test_pixels_are_normalised_as_open_clip_does(towers: Towers) -> None:
    images = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    transform = v2.Normalize(towers.preprocess_cfg["mean"], towers.preprocess_cfg["std"])
    expected = transform(images.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(towers.normalise(images), expected)


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
    texts = tokenized(towers, [["hi"]])
    assert texts.groups[0].shape == (1, 77)
    assert towers.embed_texts(texts).shape == (1, 1, 128)


@pytest.mark.parametrize("kept", [None, 8])
def test_gradient_caching_changes_nothing(kept: int | None) -> None:
    """Chunks of 4 of 12 samples: the same loss and gradients, also with patches left out."""
    add_tiny_vit()
    results = []
    for chunk_size in (None, 4):
        torch.manual_seed(0)
        towers = Towers("tiny-vit", 0.07, chunk_size=chunk_size).train()
        objective = Contrastive(towers)
        images = torch.randint(256, (12, 32, 32, 3), dtype=torch.uint8)
        texts = tokenized(towers, [[f"number {n}" + " more" * (n % 3)] for n in range(12)])
        patches = torch.rand(12, 16).argsort(1)[:, :kept] if kept else None
        loss = objective(Batch(images, texts, patches=patches))["loss"]
        loss.backward()
        results.append((loss, {n: p.grad for n, p in towers.named_parameters()}))
    (loss, gradients), (cached, from_cache) = results
    torch.testing.assert_close(cached, loss)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(from_cache[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_gradient_caching_keeps_one_chunks_activations() -> None:
    """The bytes kept for backward don't grow with the number of chunks, but for embeddings and inputs."""
    add_tiny_vit()
    kept = {}
    for num in (8, 32):
        for chunk_size in (None, 4):
            towers = Towers("tiny-vit", 0.07, chunk_size=chunk_size).train()
            images = torch.zeros(num, 32, 32, 3, dtype=torch.uint8)
            sizes: dict[int, int] = {}

            def keep(value: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
                if not isinstance(value, torch.nn.Parameter):
                    sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
                return value

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
                towers.embed_images(images)
            kept[num, chunk_size] = sum(sizes.values())
    assert kept[32, None] > 2.5 * kept[8, None]
    assert kept[32, 4] < 0.1 * kept[32, None]


@pytest.mark.parametrize("architecture", ["clipflow-tiny", "tiny-vit"])
def test_compiled_by_blocks_where_there_are_any(architecture: str) -> None:
    add_tiny_vit()
    towers = Towers(architecture, 0.07)
    towers.compile_parts()
    compiled = {name for name, part in towers.clip.named_modules() if part._compiled_call_impl}
    blocks = {f"text.transformer.resblocks.{n}" for n in range(2)}
    image = {f"visual.transformer.resblocks.{n}" for n in range(2)}
    assert compiled == blocks | (image if architecture == "tiny-vit" else {"visual"})


def test_batch_norm_is_not_chunked() -> None:
    with pytest.raises(ParamsError, match="'RN50' has batch norm"):
        Towers("RN50", 0.07, chunk_size=8)


@pytest.mark.parametrize(("tower", "other"), [("image", "text"), ("text", "image")])
def test_locked_towers_get_no_gradient(towers: Towers, tower: str, other: str) -> None:
    locked = copy.deepcopy(towers)
    locked.lock(tower)
    images = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    batch = Batch(images, tokenized(locked, [["a"], ["b c"]]))
    Contrastive(locked)(batch)["loss"].backward()
    parts = {"image": locked.clip.visual, "text": locked.clip.text}
    assert all(p.grad is None for p in parts[tower].parameters())
    assert all(p.grad is not None for p in parts[other].parameters())


def add_tiny_vit() -> None:
    """A ViT of two layers with everything that the usual ones have."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny-vit.json"
        file.write_text(json.dumps(TINY_VIT))
        open_clip.add_model_config(file)


def test_captioners_are_for_recipes_that_train_the_decoder() -> None:
    with pytest.raises(
        ParamsError, match=r"has a captioning decoder.*; set pretrain\.recipe to coca"
    ):
        Towers("clipflow-tiny-coca", 0.07)
    with pytest.raises(ParamsError, match=r"'RN50' has no captioning decoder.* coca_ViT-B-32"):
        Towers("RN50", 0.07, decoder=True)


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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ParamsError, match="'roberta-ViT-B-32' needs files from the Hugging Face hub"
    ):
        Towers("roberta-ViT-B-32", 0.07)


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, False), (False, True)])
def test_plain_products_in_bfloat16_are_attention(causal: bool, masked: bool) -> None:
    """Against float32's fused attention, forward and backward, to bfloat16's 8 bits."""
    torch.manual_seed(0)
    exact = [torch.randn(3, 2, 9, 16, requires_grad=True) for _ in range(3)]
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    mask = (torch.arange(9) <= torch.tensor([2, 8, 5])[:, None])[:, None, None] if masked else None
    outs = [blocks._weighted(*x, causal=causal, mask=mask) for x in (exact, rough)]
    weights = torch.randn(3, 2, 9, 16)
    for out in outs:
        (out.float() * weights).sum().backward()
    assert torch.allclose(outs[0], outs[1].float(), atol=0.05)
    for one, other in zip(exact, rough, strict=True):
        assert torch.allclose(one.grad, other.grad.float(), atol=0.1)
