"""The two towers of a CLIP: open_clip's, by any of its architecture names or one of ours."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import open_clip
import torch
from jaxtyping import Float, Int, UInt8
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from clipflow.errors import ParamsError, did_you_mean
from clipflow.model import architectures
from clipflow.model.blocks import pooled
from clipflow.model.decoder import has_decoder, initialise, read
from clipflow.model.patches import embedded
from clipflow.model.plain_towers import pools_class_token, project, trimmed, trims
from clipflow.model.texts import Texts

MAX_LOGIT_SCALE = math.log(100)
Out = TypeVar("Out")
LAYER = re.compile(r"\b(?:resblocks|stages|blocks|layer)\.(\d+)\.")
"""What open_clip, timm and transformers call the layers of a tower."""


class Towers(nn.Module):
    """Image tower, text tower and the learned logit scale (CLIP, section 2.3)."""

    def __init__(
        self,
        architecture: str,
        temperature_init: float,
        *,
        logit_bias_init: float | None = None,
        chunk_size: int | None = None,
        decoder: bool = False,
    ) -> None:
        """Random initial weights; `chunk_size` images or texts are embedded at once (null: all).

        With a `logit_bias_init` a bias of the logits is learned from there on (SigLIP); with a `decoder`
        the architecture must have one for captions (CoCa), else it must not.
        Raises ParamsError for an architecture that can't be built here, or not with these choices.
        """
        super().__init__()
        if architecture not in architectures.names():
            hint = did_you_mean(architecture, architectures.names())
            raise ParamsError(f"pretrain.architecture: no architecture '{architecture}'; {hint}")
        self.architecture, self.chunk_size = architecture, chunk_size
        try:
            with _quiet():
                # The custom-text class keeps the text tower whole, with the same weights and outputs.
                bias = {} if logit_bias_init is None else {"init_logit_bias": logit_bias_init}
                self.clip = open_clip.create_model(
                    architecture,
                    force_custom_text=True,
                    pretrained_text=False,
                    init_logit_scale=math.log(1 / temperature_init),
                    **bias,
                )
                self.tokenizer = open_clip.get_tokenizer(architecture)
        except OSError as error:
            raise ParamsError(
                f"pretrain.architecture: '{architecture}' needs files from the Hugging Face hub, which"
                f" can't be read from here ({type(error).__name__}); choose an architecture without"
                " hf_model_name, or fill HF_HOME on a machine with network"
            ) from None
        if decoder and not has_decoder(self.clip):
            raise ParamsError(
                f"pretrain.architecture: '{architecture}' has no captioning decoder for the recipe to"
                " train; choose one of open_clip's CoCas, such as coca_ViT-B-32, or clipflow-tiny-coca"
            )
        if hasattr(self.clip, "text_decoder") and not decoder:
            raise ParamsError(
                f"pretrain.architecture: '{architecture}' has a captioning decoder, which the recipe"
                " doesn't train; set pretrain.recipe to coca, or choose one without 'coca' in its name"
            )
        if decoder:
            initialise(self.clip.text_decoder)
        visual, text = self.clip.visual, self.clip.text
        if chunk_size and any(isinstance(part, _BatchNorm) for part in self.modules()):
            raise ParamsError(
                f"pretrain.chunk_size: '{architecture}' has batch norm, whose statistics would be those of"
                f" {chunk_size} samples instead of the batch; set it to null or choose another architecture"
            )
        self.logit_bias_init = logit_bias_init
        if self.clip.logit_bias is not None and logit_bias_init is None:
            self.clip.logit_bias.requires_grad_(False)  # InfoNCE is blind to it
        self.preprocess_cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(self.clip)
        self.has_decoder = decoder
        self.pools_class_token = not decoder and pools_class_token(visual)
        self.trims_text = decoder or trims(text)

    @property
    def image_size_px(self) -> int:
        """Side of the square input images."""
        size = self.preprocess_cfg["size"]
        return int(size if isinstance(size, int) else size[0])

    @property
    def patch_size_px(self) -> int | None:
        """Side of a patch; None if the image tower is no ViT of open_clip."""
        visual = self.clip.visual
        return int(visual.patch_size[0]) if isinstance(visual, VisionTransformer) else None

    @property
    def dim(self) -> int:
        """Elements of an embedding."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def config(self) -> dict[str, Any]:
        """What `open_clip_config.json` holds: open_clip builds the same model from it."""
        model_cfg = {**open_clip.get_model_config(self.architecture), "custom_text": True}
        if self.logit_bias_init is not None:
            model_cfg["init_logit_bias"] = self.logit_bias_init
        return {"model_cfg": model_cfg, "preprocess_cfg": self.preprocess_cfg}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a model of this architecture, trained with a bias of the logits or without.

        A bias that they don't have stays what it is, and one that isn't learned here is left out.
        """
        bias = self.clip.logit_bias
        others = {name: value for name, value in weights.items() if name != "logit_bias"}
        if bias is not None:
            others["logit_bias"] = weights.get("logit_bias", bias.detach())
        self.clip.load_state_dict(others)

    def lock(self, tower: str) -> None:
        """Keep the `image` or the `text` tower as it is (LiT, Zhai et al. 2022, section 3)."""
        {"image": self.clip.visual, "text": self.clip.text}[tower].requires_grad_(False)

    def normalise(
        self, images: UInt8[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pixels as the image tower takes them: by the architecture's mean and deviation."""
        mean, std = (
            255 * torch.tensor(self.preprocess_cfg[name], device=images.device)[:, None, None]
            for name in ("mean", "std")
        )
        # Channel by channel in memory: three times as fast on CPUs as with the channels innermost.
        pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.sub_(mean).div_(std)

    def image(
        self,
        images: Float[Tensor, "batch 3 height width"],
        patches: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Unit-length embeddings of images, or of some of their patches."""
        visual = self.clip.visual
        if self.pools_class_token:
            first = torch.zeros(len(images), dtype=torch.long, device=images.device)
            tokens = embedded(visual, images, patches)
            whole = visual.ln_post(pooled(visual.transformer, tokens, first, causal=False))
        elif patches is None and not self.has_decoder:
            return functional.normalize(visual(images), dim=-1)
        else:
            whole, _ = visual._pool(visual.transformer(embedded(visual, images, patches)))
        return functional.normalize(project(whole, visual.proj), dim=-1)

    def text(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Unit-length text embeddings."""
        text = self.clip.text
        if self.has_decoder:
            whole, _ = read(text, tokens)
        else:
            whole = trimmed(text, tokens) if self.trims_text else text(tokens)
        return functional.normalize(whole, dim=-1)

    def embed_images(
        self,
        images: UInt8[Tensor, "batch height width 3"],
        patches: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Unit-length embeddings of a batch's images, or of some of their patches, by chunks."""
        return torch.cat(
            [
                self.cached(lambda i, p: self.image(self.normalise(i), p), *chunk)
                for chunk in self.image_chunks(images, patches)
            ]
        )

    def image_chunks(
        self,
        images: UInt8[Tensor, "batch height width 3"],
        patches: Int[Tensor, "batch kept"] | None,
    ) -> list[tuple[Tensor, Tensor | None]]:
        """So many images as are embedded at once, with their patches, after each other."""
        size = self.chunk_size or len(images)
        chunks = images.split(size)
        return list(
            zip(
                chunks,
                patches.split(size) if patches is not None else [None] * len(chunks),
                strict=True,
            )
        )

    def text_chunks(self, texts: Texts) -> list[Int[Tensor, "chunk length"]]:
        """So many texts of a group as are embedded at once, after each other."""
        return [c for group in texts.groups for c in group.split(self.chunk_size or len(group))]

    def embed_texts(self, texts: Texts) -> Float[Tensor, "batch texts dim"]:
        """Unit-length embeddings of a batch's texts, by groups and chunks."""
        chunks = self.text_chunks(texts)
        return torch.cat([self.cached(self.text, chunk) for chunk in chunks])[texts.place]

    def cached(self, embed: Callable[..., Out], *chunk: Tensor | None) -> Out:
        """Gradient caching (Gao et al. 2021, arXiv:2101.06983, section 3): only embeddings are kept.

        Backward embeds the chunk once more, with the same random numbers, so that never more than one
        chunk's activations are in memory and the loss still sees the whole batch.
        """
        if self.chunk_size is None:
            return embed(*chunk)
        again: Out = checkpoint(embed, *chunk, use_reentrant=False)
        return again

    def compile_parts(self) -> None:
        """Have each transformer block compiled at its first use, or a tower without such blocks whole."""
        for tower, has_blocks in (
            (self.clip.visual, self.pools_class_token),
            (self.clip.text, self.trims_text),
        ):
            for part in tower.transformer.resblocks if has_blocks else [tower]:
                part.compile()

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by: the inverse temperature."""
        scale: Tensor = self.clip.logit_scale.exp()
        return scale

    @property
    def bias(self) -> Float[Tensor, ""]:
        """What is added to scaled cosines, for losses that need it."""
        bias: Tensor = self.clip.logit_bias
        return bias

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep the scale in [1, 100], as CLIP and LaCLIP do after each step."""
        self.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


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
