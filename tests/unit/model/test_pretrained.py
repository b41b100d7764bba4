"""Models by folder and name, of open_clip and of Transformers."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)  # fmt: skip

from clipflow.errors import ArtifactError
from clipflow.model.pretrained import load

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "blue", "square", "circle"]
TEXTS = ["a red square", "blue", "a a a a a a a a a a a a a a a circle"]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP as Transformers saves it, with a tokenizer of nine words."""
    folder = tmp_path_factory.mktemp("hf")
    words = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    small = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**small, "num_hidden_layers": 2, "vocab_size": 9, "max_position_embeddings": 12,
                     "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
        vision_config={**small, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_model_of_transformers_embeds_as_there(hugging_face: Path, image: Image.Image) -> None:
    model = load(str(hugging_face), batch_size=2)
    theirs, process = (
        CLIPModel.from_pretrained(hugging_face),
        CLIPProcessor.from_pretrained(hugging_face),
    )
    inputs = process(text=TEXTS, images=image, return_tensors="pt", padding="max_length",
                     truncation=True, max_length=12)  # fmt: skip
    with torch.no_grad():
        found = theirs.eval()(**inputs)
    torch.testing.assert_close(model.texts(TEXTS), found.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        model.images([model.preprocess(image)]), found.image_embeds, atol=1e-5, rtol=0
    )
    assert model.logit_scale == pytest.approx(theirs.logit_scale.exp().item())


def test_open_clips_folder_embeds_as_there(tmp_path: Path, image: Image.Image) -> None:
    torch.manual_seed(0)
    theirs, _, preprocess = open_clip.create_model_and_transforms("ViT-S-32-alt")
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    config = {
        "model_cfg": open_clip.get_model_config("ViT-S-32-alt"),
        "preprocess_cfg": open_clip.get_model_preprocess_cfg(theirs),
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    texts = ["a photo of a cat", "two dogs " * 60]
    with torch.no_grad():
        of_texts = theirs.eval().encode_text(
            open_clip.get_tokenizer("ViT-S-32-alt")(texts), normalize=True
        )
        of_image = theirs.encode_image(preprocess(image)[None], normalize=True)
    model = load(str(tmp_path), batch_size=2)
    torch.testing.assert_close(model.texts(texts), of_texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.images([model.preprocess(image)]), of_image, atol=1e-5, rtol=0)
    by_name = load("ViT-S-32-alt", str(tmp_path / "open_clip_pytorch_model.bin"), batch_size=2)
    torch.testing.assert_close(by_name.texts(texts), of_texts, atol=1e-5, rtol=0)


def test_the_digest_is_of_weights_and_preprocessing(hugging_face: Path, tmp_path: Path) -> None:
    first, again = (load(str(hugging_face), batch_size=n) for n in (1, 2))
    assert first.digest == again.digest
    with torch.no_grad():
        next(again.model.parameters()).add_(1)
    del again.__dict__["digest"]
    assert first.digest != again.digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-23", r"no architecture of open_clip; did you mean 'ViT-B-32'\?"),
        ("ViT-B-32", r"random weights measures at random; pass --pretrained .*laion2b_s34b_b79k"),
        ("empty", "empty: expected a checkpoint with open_clip_config.json, or .* found neither"),
        ("bert", r"--checkpoint bert: it can't be loaded \(a BertModel is no CLIP model\)"),
        ("broken", r"--checkpoint broken: it can't be loaded"),
    ],
)
def test_what_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hugging_face: Path, name: str, message: str
) -> None:
    from transformers import BertConfig, BertModel

    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "bert", "broken"):
        Path(folder).mkdir()
    small = BertConfig(
        hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8
    )
    BertModel(small).save_pretrained("bert")
    CLIPProcessor.from_pretrained(hugging_face).save_pretrained("bert")
    Path("broken/config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ArtifactError, match=message) as refusal:
        load(name, batch_size=1)
    assert "\n" not in str(refusal.value)
