"""Images and texts -> L2-normalised float32 embeddings, by open_clip's own model and transforms."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from clipflow import log
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate.metrics import Embeddings

T = TypeVar("T")


@dataclass(frozen=True)
class Embedder:
    """A checkpoint in eval mode on one device, with its preprocessing and its tokenizer."""

    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device
    batch_size: int

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied by before the softmax (1 / temperature)."""
        return float(self.model.logit_scale.exp().detach())

    def images(self, task: Task, split: str) -> tuple[Embeddings, list[bytes]]:
        """Embeddings [samples, dim] of one split, with each sample's label or captions as bytes.

        Raises ArtifactError naming the task and the sample that can't be decoded.
        """
        notes: list[bytes] = []
        parts: list[Embeddings] = []
        samples = (
            (task, split, n, jpeg, note) for n, (jpeg, note) in enumerate(task.samples(split))
        )
        total, what = task.num_samples[split], f"{task.name}/{split}"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            bar = log.progress(samples, total=total, what=what, unit="image")
            for batch in _batches(bar, self.batch_size):
                pixels = torch.stack(list(pool.map(self._decode, batch)))
                parts.append(self._embed(self.model.encode_image, pixels))
                notes += [note for *_, note in batch]
        if not parts:
            raise ArtifactError(
                f"{task.folder / split}: no sample in it; make it again with 'clipflow ingest'"
            )
        return np.concatenate(parts), notes

    def texts(self, texts: Sequence[str], *, what: str) -> Embeddings:
        """Embeddings [texts, dim]; `what` labels the progress bar."""
        bar = log.progress(texts, total=len(texts), what=what, unit="text")
        batches = _batches(bar, self.batch_size)
        return np.concatenate(
            [self._embed(self.model.encode_text, self.tokenize(batch)) for batch in batches]
        )

    def _decode(self, sample: tuple[Task, str, int, bytes, bytes]) -> Tensor:
        task, split, number, jpeg, _ = sample
        try:
            return self.preprocess(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise ArtifactError(
                f"{task.folder / split}: sample {number} of task '{task.name}' is no readable"
                f" image ({error}); make it again with 'clipflow ingest'"
            ) from None

    @torch.inference_mode()
    def _embed(self, encode: Callable[..., Tensor], batch: Tensor) -> Embeddings:
        embeddings = encode(batch.to(self.device), normalize=True).float().cpu().numpy()
        if not np.isfinite(embeddings).all():
            raise ArtifactError(
                "checkpoint: its embeddings are not finite, training has diverged; "
                "lower pretrain.lr and run 'clipflow pretrain' again"
            )
        return embeddings


def load(checkpoint: Path, batch_size: int) -> Embedder:
    """The checkpoint, on the GPU if there is one. Raises ArtifactError if it can't be loaded."""
    checkpoints.read(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"local-dir:{checkpoint}"
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name, device=device)
        tokenize = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"{checkpoint}: open_clip can't load it ({reason}); "
            "make it again with 'clipflow pretrain'"
        ) from error
    return Embedder(model.eval(), preprocess, tokenize, device, batch_size)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
