"""score: the cosine of every image with its caption and its rewrites, by any open_clip model.

A text that says less of its image scores lower: recipes may weigh texts so, as ALIP does (Yang et al. 2023,
arXiv:2308.08428).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import open_clip
import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from clipflow import log
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as rewrites_artifact
from clipflow.artifacts import scores as artifact
from clipflow.artifacts.pairs import Pairs, Row
from clipflow.errors import ArtifactError, did_you_mean
from clipflow.model import towers
from clipflow.model.texts import grouped
from clipflow.model.tokens import Tokenizer

logger = logging.getLogger(__name__)

HUB = "hf-hub:"


def run(
    *,
    pairs: Path,
    rewrites: Path,
    checkpoint: str,
    scores: Path,
    pretrained: str | None = None,
    batch_size: int = 256,
) -> None:
    """Write a `scores` artifact with a row for every pair.

    `checkpoint` is a checkpoint's folder, `hf-hub:ORG/NAME`, or one of open_clip's architectures with the
    tag or file of its weights as `pretrained`. Killed or interrupted, the next call with the same inputs
    goes on where it was. Raises ArtifactError if the model can't be loaded or if the artifacts don't match.
    """
    source = Pairs(pairs)
    manifest.read(rewrites, rewrites_artifact.SCHEMA)
    clip = load(checkpoint, pretrained, batch_size)
    made_with = {
        "pairs": manifest.digest(pairs),
        "rewrites": manifest.digest(rewrites),
        "checkpoint": {"name": clip.name, "pretrained": pretrained, "weights": clip.digest()},
        "precision": clip.precision,
    }
    logger.info(
        "%s on %s in %s: scoring %d captions and their rewrites, from %s",
        clip.name, clip.device, clip.precision, len(source), pairs,
    )  # fmt: skip
    code = manifest.file_digest(Path(__file__))
    with manifest.resumable(scores, {**made_with, "code": code}) as folder:
        writer = artifact.Writer(folder)
        with log.counter(total=len(source), what="scoring", unit="pair") as bar:
            for number, (_, texts) in enumerate(rewrites_artifact.by_shard(rewrites, source)):
                name = source.shards[number].stem
                if not writer.has(name):
                    writer.add_shard(name, _shard(clip, source, number, texts, bar.update))
                else:
                    bar.update(len(texts))
        writer.close(**made_with)
    logger.info("%s", _summary(scores))


@dataclass(frozen=True)
class Clip:
    """A model in eval mode on one device."""

    name: str
    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Tokenizer
    device: torch.device
    batch_size: int
    trims_text: bool

    @property
    def precision(self) -> str:
        """`bf16` on GPUs, else `fp32`."""
        return "bf16" if self.device.type == "cuda" else "fp32"

    def images(self, pixels: Sequence[Tensor]) -> Float[Tensor, "images dim"]:
        """Unit-length embeddings of preprocessed images."""
        return self._embed(self.model.encode_image, torch.stack(list(pixels)))

    def texts(self, texts: list[str]) -> Float[Tensor, "texts dim"]:
        """Unit-length embeddings of texts, by groups of similar length."""
        found = grouped(self.tokenize(texts)[:, None], trims=self.trims_text)
        encode = self._trimmed if self.trims_text else self.model.encode_text
        chunks = [chunk for group in found.groups for chunk in group.split(self.batch_size)]
        return torch.cat([self._embed(encode, chunk) for chunk in chunks])[found.place[:, 0]]

    def digest(self) -> str:
        """32 hex digits that identify the weights."""
        found = hashlib.sha256()
        for name, weights in sorted(self.model.state_dict().items()):
            found.update(name.encode())
            found.update(weights.detach().float().cpu().numpy().tobytes())
        return found.hexdigest()[:32]

    def _trimmed(self, tokens: Tensor) -> Tensor:
        return towers.trimmed(self.model.text, tokens)

    @torch.inference_mode()
    def _embed(self, encode: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        device = self.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            embedded = encode(batch.to(device))
        unit = functional.normalize(embedded.float(), dim=-1).cpu()
        if not unit.isfinite().all():
            raise ArtifactError(
                f"{self.name}: its embeddings are not finite, its training has diverged; pass another"
                " --checkpoint"
            )
        return unit


def load(checkpoint: str, pretrained: str | None, batch_size: int) -> Clip:
    """The model, on the GPU if there is one. Raises ArtifactError, saying what there is, if it can't be."""
    name = _open_clips_name(checkpoint, pretrained)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # The custom-text class keeps the text tower whole, with the same weights and outputs.
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained, device=device, force_custom_text=True, require_pretrained=True,
            pretrained_text=False,
        )  # fmt: skip
        tokenize = Tokenizer(open_clip.get_tokenizer(name))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"--checkpoint {checkpoint}: open_clip can't load it ({reason}); pass a checkpoint's folder,"
            " or fill HF_HOME on a machine with network"
        ) from None
    trims = type(model) is open_clip.CustomTextCLIP and towers.trims(model.text)
    return Clip(checkpoint, model.eval(), preprocess, tokenize, device, batch_size, trims)


def _open_clips_name(checkpoint: str, pretrained: str | None) -> str:
    if Path(checkpoint).is_dir():
        if not (Path(checkpoint) / checkpoints.CONFIG).is_file():
            raise ArtifactError(
                f"{checkpoint}: expected a checkpoint with {checkpoints.CONFIG}, found none; pass the"
                " output of 'clipflow pretrain'"
            )
        return f"local-dir:{checkpoint}"
    if checkpoint.startswith(HUB):
        return checkpoint
    if checkpoint not in open_clip.list_models():
        hint = did_you_mean(checkpoint, open_clip.list_models())
        raise ArtifactError(
            f"--checkpoint {checkpoint}: no such folder and no architecture of open_clip; {hint} (models of"
            f" the Hugging Face hub are {HUB}ORG/NAME)"
        )
    if pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(checkpoint)) or "none known"
        raise ArtifactError(
            f"--checkpoint {checkpoint}: an architecture with random weights scores at random; pass"
            f" --pretrained with a file or one of: {tags}"
        )
    return checkpoint


def _shard(
    clip: Clip, source: Pairs, number: int, texts: pa.ListArray, done: Callable[[int], object]
) -> pa.Table:
    """The scores of one shard; `done(n)` hears of pairs that are scored."""
    keys: list[str] = []
    captions: list[float | None] = []
    rewrites: list[list[float | None]] = []
    rows = zip(source.rows(number, images=True), texts.to_pylist(), strict=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(islice(rows, clip.batch_size)):
            for (row, _), of_row in zip(batch, _batch(clip, pool, batch), strict=True):
                keys.append(row.key)
                captions.append(of_row[0])
                rewrites.append(of_row[1:])
            done(len(batch))
    return pa.table({"key": keys, "caption": captions, "rewrites": rewrites}, schema=artifact.TABLE)


def _batch(
    clip: Clip, pool: ThreadPoolExecutor, batch: list[tuple[Row, list[str]]]
) -> Iterator[list[float | None]]:
    """The scores of each row's caption and rewrites; of a damaged image they are None."""
    pixels = list(pool.map(lambda pair: _pixels(clip, pair[0]), batch))
    whole = [n for n, of_image in enumerate(pixels) if of_image is not None]
    texts = [[row.caption, *rewrites] for row, rewrites in batch]
    found = iter(())
    if whole:
        images = clip.images([p for p in pixels if p is not None])
        owners = [at for at, n in enumerate(whole) for _ in texts[n]]
        embedded = clip.texts([text for n in whole for text in texts[n]])
        found = iter((images[owners] * embedded).sum(dim=-1).tolist())
    for of_image, of_row in zip(pixels, texts, strict=True):
        yield [None if of_image is None else next(found) for _ in of_row]


def _pixels(clip: Clip, row: Row) -> Tensor | None:
    assert row.image is not None
    try:
        return clip.preprocess(Image.open(io.BytesIO(row.image)).convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        logger.warning("pair %s: no readable image (%s), so it has no scores", row.key, error)
        return None


def _summary(folder: Path) -> str:
    facts = manifest.read(folder, artifact.SCHEMA)
    caption, rewrite = facts["caption"], facts["rewrite"]
    means = ", ".join(
        f"{of['num']} {what} {of['mean']:.4f} ({of['p5']:.4f} to {of['p95']:.4f})"
        for what, of in (("captions", caption), ("rewrites", rewrite))
        if of["num"]
    )
    return (
        f"wrote {folder}: mean score (5th to 95th percentile) of {means or 'nothing'};"
        f" {facts['num_unreadable']} images can't be read"
    )
