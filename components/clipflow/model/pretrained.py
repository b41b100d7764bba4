"""Any CLIP model that can be loaded by folder or name, in eval mode: images and texts to vectors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from clipflow.errors import ArtifactError, did_you_mean
from clipflow.model import architectures, plain_towers, similarity_file, transformers_clip
from clipflow.model.similarity import Similarity
from clipflow.model.texts import grouped
from clipflow.model.token_embeddings import image_tokens, text_tokens
from clipflow.model.tokens import Tokenizer

HUB = "hf-hub:"
"""Before a name: a model of the Hugging Face hub in open_clip's format."""
TRANSFORMERS = "transformers:"
"""Before a name: a CLIP or SigLIP model of the Hugging Face hub in Transformers' format."""
OPEN_CLIP_CONFIG = "open_clip_config.json"
UNLOADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError)
"""What loading a model raises for files that are missing, damaged or of another kind."""


@dataclass(frozen=True)
class Pretrained:
    """A model in eval mode on one device, with its preprocessing and its tokenizer."""

    name: str
    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    """An RGB image -> float32 pixels [3, height, width]."""
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device
    batch_size: int
    """Images or texts embedded at once."""
    precision: str
    """`bf16` (autocast) or `fp32`."""
    trims_text: bool
    """Whether the text tower is blind to padding, so that it need not be computed."""
    similarity: Similarity | None = None
    """How its vectors are made and compared; None: unit vectors by their dot product."""

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied by before the softmax (1 / temperature)."""
        return float(self.model.logit_scale.exp().detach())

    @property
    def num_parameters(self) -> int:
        """Of both towers, and of the similarity."""
        parts = [self.model, *([self.similarity] if self.similarity else [])]
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    def images(self, pixels: Sequence[Tensor]) -> Float[Tensor, "images size"]:
        """Vectors, float32 on the CPU, of preprocessed images. Raises ArtifactError if not finite.

        Unit vectors, unless a `similarity` has others.
        """
        return self._embed(self._image, torch.stack(list(pixels)))

    def texts(self, texts: list[str]) -> Float[Tensor, "texts size"]:
        """Vectors as of images, by groups of similar length. Raises ArtifactError as above."""
        found = grouped(self.tokenize(texts)[:, None], trims=self.trims_text)
        chunks = [chunk for group in found.groups for chunk in group.split(self.batch_size)]
        parts = [self._embed(self._text, chunk) for chunk in chunks]
        size = max(part.shape[1] for part in parts)
        padded = [functional.pad(part, (0, size - part.shape[1])) for part in parts]
        return torch.cat(padded)[found.place[:, 0]]

    def need_dot_product(self, what: str) -> None:
        """Raise ArtifactError if its vectors are not to be compared by their dot product."""
        if self.similarity and not self.similarity.is_dot_product:
            raise ArtifactError(
                f"{self.name}: {what} one vector of each image and text, and this checkpoint compares"
                f" them otherwise ({self.similarity.kind}); pass one of another recipe, such as clip"
            )

    @cached_property
    def digest(self) -> str:
        """32 hex digits that identify weights, preprocessing and context length."""
        preprocess = re.sub(r" at 0x[0-9a-f]+", "", str(self.preprocess))
        found = hashlib.sha256(f"{preprocess} {self.tokenize(['a']).shape[1]}".encode())
        for name, weights in sorted(self.model.state_dict().items()):
            found.update(name.encode())
            found.update(weights.detach().float().cpu().numpy().tobytes())
        if self.similarity:
            found.update(f"{self.similarity.kind} {self.similarity.sizes}".encode())
            for name, weights in sorted(self.similarity.state_dict().items()):
                found.update(name.encode())
                found.update(weights.float().cpu().numpy().tobytes())
        return found.hexdigest()[:32]

    def _image(self, pixels: Tensor) -> Tensor:
        if self.similarity:
            return self.similarity.embed(image_tokens(self.model.visual, pixels))
        return functional.normalize(self.model.encode_image(pixels).float(), dim=-1)

    def _text(self, ids: Tensor) -> Tensor:
        if self.similarity:
            return self.similarity.embed(text_tokens(self.model.text, ids))
        embedded = (
            plain_towers.trimmed(self.model.text, ids)
            if self.trims_text
            else self.model.encode_text(ids)
        )
        return functional.normalize(embedded.float(), dim=-1)

    @torch.inference_mode()
    def _embed(self, encode: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        device = self.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            vectors = encode(batch.to(device)).float().cpu()
        if not vectors.isfinite().all():
            raise ArtifactError(
                f"{self.name}: its embeddings are not finite, its training has diverged; pass another"
                " --checkpoint, or lower pretrain.lr and run 'clipflow pretrain' again"
            )
        return vectors


def load(
    checkpoint: str,
    pretrained: str | None = None,
    *,
    batch_size: int,
    precision: str = "fp32",
    option: str = "--checkpoint",
) -> Pretrained:
    """The model, on the GPU if there is one.

    `checkpoint` is a folder (ours, open_clip's, or of a CLIP model of Transformers), `hf-hub:ORG/NAME`,
    `transformers:ORG/NAME`, or an architecture of open_clip with the tag or file of its weights as
    `pretrained`. precision: `auto` is bf16 on GPUs, else fp32; `option` is by which the
    name was passed. Raises ArtifactError, saying what there is, if it can't be loaded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    name = _name(checkpoint, pretrained, option)
    try:
        if name.startswith(TRANSFORMERS):
            model, preprocess, tokenize = transformers_clip.load(name.removeprefix(TRANSFORMERS))
            model.to(device)
        else:
            model, preprocess, tokenize = _of_open_clip(name, pretrained, device)
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"{option} {checkpoint}: it can't be loaded ({reason}); pass a checkpoint's folder, or fill"
            " HF_HOME on a machine with network"
        ) from None
    trims = type(model) is open_clip.CustomTextCLIP and plain_towers.trims(model.text)
    similarity = similarity_file.read(Path(checkpoint)) if Path(checkpoint).is_dir() else None
    if similarity and not (trims and plain_towers.pools_class_token(model.visual)):
        raise ArtifactError(
            f"{option} {checkpoint}: its {similarity_file.FILE} needs towers with tokens, which these"
            " aren't; it is of another checkpoint, so remove it or pass that"
        )
    return Pretrained(
        checkpoint, model.eval(), preprocess, tokenize, device, batch_size, precision, trims,
        similarity and similarity.to(device),
    )  # fmt: skip


def _of_open_clip(name: str, pretrained: str | None, device: torch.device) -> tuple[Any, Any, Any]:
    # The custom-text class keeps the text tower whole, with the same weights and outputs.
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained, device=device, force_custom_text=True, require_pretrained=True,
        pretrained_text=False,
    )  # fmt: skip
    return model, preprocess, Tokenizer(open_clip.get_tokenizer(name))


def _name(checkpoint: str, pretrained: str | None, option: str) -> str:
    """What open_clip, or after the prefix Transformers, knows the model by."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if (folder / OPEN_CLIP_CONFIG).is_file():
            return f"local-dir:{checkpoint}"
        with suppress(OSError, ValueError, AttributeError):
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if config.get("model_type"):
                return TRANSFORMERS + checkpoint
        raise ArtifactError(
            f"{checkpoint}: expected a checkpoint with {OPEN_CLIP_CONFIG}, or a model of Transformers with"
            " config.json, found neither; pass the output of 'clipflow pretrain'"
        )
    if checkpoint.startswith((HUB, TRANSFORMERS)):
        return checkpoint
    if checkpoint not in architectures.names():
        hint = did_you_mean(checkpoint, architectures.names())
        raise ArtifactError(
            f"{option} {checkpoint}: no such folder and no architecture of open_clip; {hint} (models of"
            f" the Hugging Face hub are {HUB}ORG/NAME, in Transformers' format {TRANSFORMERS}ORG/NAME)"
        )
    if pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(checkpoint)) or "none known"
        raise ArtifactError(
            f"{option} {checkpoint}: an architecture with random weights measures at random; pass"
            f" --pretrained with a file or one of: {tags}"
        )
    return checkpoint
