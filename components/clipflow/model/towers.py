"""The two towers of a CLIP: open_clip's, by any of its architecture names or one of ours.

Ours lie in `architectures/`, in open_clip's own format: a file there is an architecture more.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float, Int
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional

from clipflow.errors import ParamsError, did_you_mean

open_clip.add_model_config(Path(__file__).with_name("architectures"))

MAX_LOGIT_SCALE = math.log(100)


class Towers(nn.Module):
    """Image tower, text tower and the learned logit scale (CLIP, section 2.3)."""

    def __init__(self, architecture: str, temperature_init: float) -> None:
        """Random initial weights. Raises ParamsError for an architecture that can't be built here."""
        super().__init__()
        if architecture not in open_clip.list_models():
            hint = did_you_mean(architecture, open_clip.list_models())
            raise ParamsError(f"pretrain.architecture: no architecture '{architecture}'; {hint}")
        self.architecture = architecture
        try:
            with _quiet():
                # The custom-text class keeps the text tower whole, with the same weights and outputs.
                self.clip = open_clip.create_model(
                    architecture,
                    force_custom_text=True,
                    pretrained_text=False,
                    init_logit_scale=math.log(1 / temperature_init),
                )
                self.tokenizer = open_clip.get_tokenizer(architecture)
        except OSError as error:
            raise ParamsError(
                f"pretrain.architecture: '{architecture}' needs files from the Hugging Face hub, which"
                f" can't be read from here ({type(error).__name__}); choose an architecture without"
                " hf_model_name, or fill HF_HOME on a machine with network"
            ) from None
        if hasattr(self.clip, "text_decoder"):
            raise ParamsError(
                f"pretrain.architecture: '{architecture}' has a captioning decoder, which no recipe here"
                " trains; choose one without 'coca' in its name"
            )
        if self.clip.logit_bias is not None:
            self.clip.logit_bias.requires_grad_(False)  # InfoNCE is blind to it
        self.preprocess_cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(self.clip)
        text = self.clip.text
        # Past the end-of-text token a causal tower reads nothing, so the batch may be cut there.
        self.trims_text = (
            isinstance(text, TextTransformer)
            and text.attn_mask is not None
            and text.pool_type == "argmax"
            and text.cls_emb is None
        )
        if self.trims_text:
            text.transformer.register_forward_pre_hook(_cut_mask, with_kwargs=True)

    @property
    def image_size_px(self) -> int:
        """Side of the square input images."""
        size = self.preprocess_cfg["size"]
        return int(size if isinstance(size, int) else size[0])

    @property
    def config(self) -> dict[str, Any]:
        """What `open_clip_config.json` holds: open_clip builds the same model from it."""
        model_cfg = {**open_clip.get_model_config(self.architecture), "custom_text": True}
        return {"model_cfg": model_cfg, "preprocess_cfg": self.preprocess_cfg}

    def tokenize(self, texts: list[str]) -> Int[Tensor, "texts length"]:
        """Token ids, cut to the longest text where that is exact, else to the context length."""
        tokens: Tensor = self.tokenizer(texts)
        if self.trims_text:
            tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
        return tokens

    def image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Unit-length image embeddings."""
        embedded: Tensor = self.clip.encode_image(images)
        return functional.normalize(embedded, dim=-1)

    def text(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Unit-length text embeddings."""
        embedded: Tensor = self.clip.encode_text(tokens)
        return functional.normalize(embedded, dim=-1)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by: the inverse temperature."""
        scale: Tensor = self.clip.logit_scale.exp()
        return scale

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep the scale in [1, 100], as CLIP and LaCLIP do after each step."""
        self.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def _cut_mask(
    _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Let open_clip's text transformer take texts shorter than its context length."""
    length = args[0].shape[1]
    return args, {**kwargs, "attn_mask": kwargs["attn_mask"][:length, :length]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush open_clip's notice that a model starts from random weights: here it is meant to."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
