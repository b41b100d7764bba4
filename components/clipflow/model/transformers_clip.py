"""A CLIP or SigLIP in Transformers' format, with open_clip's methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn


def load(name: str) -> tuple[Any, Any, Any]:
    """Model, preprocessing of one image, and tokenizer. Raises what Transformers does."""
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(name)
    model = _Transformers(AutoModel.from_pretrained(name))

    def tokenize(texts: list[str]) -> Tensor:
        tokens: Tensor = processor.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=model.context_length,
            return_tensors="pt",
        ).input_ids
        return tokens

    return model, _Preprocess(processor.image_processor), tokenize


@dataclass(frozen=True)
class _Preprocess:
    """An image processor of Transformers as a function of one image."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self.processor(images=image, return_tensors="pt").pixel_values
        return pixels[0]


class _Transformers(nn.Module):
    """A CLIP or SigLIP of Transformers with open_clip's methods."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not hasattr(model, "get_image_features") or not hasattr(model, "logit_scale"):
            raise ValueError(f"a {type(model).__name__} is no CLIP model")
        self.model = model
        self.logit_scale = model.logit_scale
        self.context_length = int(model.config.text_config.max_position_embeddings)

    def encode_image(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of images, of any length."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))

    def encode_text(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of texts, of any length. Padding follows the end of the text, so it isn't attended."""
        return _pooled(self.model.get_text_features(input_ids=tokens))


def _pooled(features: Any) -> Tensor:
    """Before version 5 the features themselves, since then an output that has them."""
    pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return pooled
