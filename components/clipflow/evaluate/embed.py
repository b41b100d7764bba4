"""Images and texts of tasks -> vectors, each computed once for a model and kept in scratch.

    embeddings/<model>/<task>-<split>-<samples>[-<corruption>-<severity>].<rank>-of-<ranks>.arrow

A file has what one rank embedded: `vector`, and `note` (the label or the captions). Files are written aside
and renamed, so an evaluation that was interrupted goes on with the first split that it doesn't have.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import feather
from torch import Tensor

from clipflow import log, store
from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate.corruptions import Corruption, corrupted
from clipflow.evaluate.metrics import Embeddings
from clipflow.lookahead import ahead
from clipflow.model.pretrained import Pretrained

T = TypeVar("T")
BATCHES_AHEAD = 3
"""The batch that is embedded next, and two that are decoded meanwhile."""
POLL_S = 0.2
logger = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A split of a task, as it is or corrupted."""

    task: Task
    split: str
    corruption: Corruption | None = None
    severity: int = 0


@dataclass(frozen=True)
class Embedder:
    """A model, and what it has embedded already. Each of `num_ranks` processes embeds its share."""

    model: Pretrained
    rank: int = 0
    num_ranks: int = 1
    _digests: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of the splits that were asked for, by task and split."""

    @classmethod
    def of(cls, model: Pretrained) -> Embedder:
        """With the ranks of the launcher's environment."""
        return cls(model, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @cached_property
    def folder(self) -> Path:
        """Where this model's embeddings are kept."""
        found = store.scratch() / "embeddings" / f"{self.model.digest}-{self.model.precision}"
        found.mkdir(parents=True, exist_ok=True)
        return found

    def embed(self, wanted: Iterable[Wanted]) -> None:
        """Embed this rank's share of what isn't there. Raises ArtifactError for damaged samples."""
        for one in wanted:
            path = self.file(one, self.rank)
            if not path.exists():
                _write(path, *self._embedded(one))

    def images(self, wanted: Wanted) -> tuple[Embeddings, list[bytes]]:
        """Embeddings [samples, dim], and each sample's label or captions as bytes.

        Embeds what isn't there, and waits for the shares of other ranks. Raises ArtifactError naming the
        task and the sample that can't be decoded.
        """
        self.embed([wanted])
        paths = [self.file(wanted, rank) for rank in range(self.num_ranks)]
        for path in paths:
            while not path.exists():
                time.sleep(POLL_S)
        tables = [feather.read_table(path, memory_map=False) for path in paths]
        vectors = np.concatenate([_vectors(table) for table in tables])
        notes = [note for table in tables for note in table["note"].to_pylist()]
        # Ranks take samples in turn.
        order = np.concatenate([table["row"].to_numpy() for table in tables]).argsort()
        if not len(order):
            raise ArtifactError(
                f"{wanted.task.folder / wanted.split}: no sample in it; make it again with"
                " 'clipflow ingest'"
            )
        return vectors[order], [notes[n] for n in order]

    def forget(self, wanted: Wanted) -> None:
        """Remove what won't be used again."""
        for rank in range(self.num_ranks):
            self.file(wanted, rank).unlink(missing_ok=True)

    def texts(self, texts: Sequence[str], *, what: str) -> Embeddings:
        """Embeddings [texts, dim]; `what` labels the progress bar. Equal texts are embedded once."""
        distinct = list(dict.fromkeys(texts))
        place = {text: n for n, text in enumerate(distinct)}
        name = hashlib.sha256("\0".join(distinct).encode()).hexdigest()[:32]
        path = self.folder / f"texts-{name}.arrow"
        if not path.exists():
            size = 16 * self.model.batch_size  # so that texts of similar length find together
            bar = log.progress(distinct, total=len(distinct), what=what, unit="text")
            parts = [self.model.texts(b).numpy() for b in _batches(bar, size)]
            # Vectors that are of tokens are as long as a batch's longest text.
            longest = max(part.shape[1] for part in parts)
            vectors = np.concatenate(
                [np.pad(part, ((0, 0), (0, longest - part.shape[1]))) for part in parts]
            )
            _write(path, vectors, [b""] * len(vectors), list(range(len(vectors))))
        table = feather.read_table(path, memory_map=False)
        return _vectors(table)[[place[text] for text in texts]]

    def file(self, wanted: Wanted, rank: int = 0) -> Path:
        """What a rank's share of a split is kept in; its name tells model, samples and corruption."""
        task, split, corruption, severity = wanted
        worse = f"-{corruption}-{severity}" if corruption else ""
        name = f"{task.name}-{split}-{self._digest(task, split)}{worse}"
        return self.folder / f"{name}.{rank}-of-{self.num_ranks}.arrow"

    def _digest(self, task: Task, split: str) -> str:
        key = (task.name, split)
        if key not in self._digests:
            self._digests[key] = task.digest(split)
        return self._digests[key]

    def _embedded(self, wanted: Wanted) -> tuple[Embeddings, list[bytes], list[int]]:
        """Vectors, notes and rows of this rank's samples."""
        task, split, corruption, severity = wanted
        samples = islice(enumerate(task.samples(split)), self.rank, None, self.num_ranks)
        total = task.num_samples.get(split)
        what = " ".join(filter(None, (f"{task.name}/{split}", corruption, str(severity or ""))))
        bar = log.progress(
            samples, total=total and -(-total // self.num_ranks), what=what, unit="image"
        )
        parts, notes, rows = [np.empty((0, 0), np.float32)], list[bytes](), list[int]()
        size = self.model.batch_size
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = ahead(pool, partial(self._pixels, wanted), bar, BATCHES_AHEAD * size)
            for batch in _batches(decoded, size):
                parts.append(self.model.images([pixels for _, pixels in batch]).numpy())
                notes += [note for (_, (_, note)), _ in batch]
                rows += [row for (row, _), _ in batch]
        return np.concatenate(parts[1:] or parts), notes, rows

    def _pixels(self, wanted: Wanted, sample: tuple[int, tuple[bytes, bytes]]) -> Tensor:
        number, (data, _) = sample
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            if wanted.corruption:
                image = self._as_seen(image)
                image = corrupted(image, wanted.corruption, wanted.severity, number)
            return self.model.preprocess(image)
        except (OSError, Image.DecompressionBombError) as error:
            raise ArtifactError(
                f"{wanted.task.folder / wanted.split}: sample {number} of task '{wanted.task.name}' is no"
                f" readable image ({error}); make it again with 'clipflow ingest'"
            ) from None

    def _as_seen(self, image: Image.Image) -> Image.Image:
        """Resized and cropped to what the model sees, which corruptions are meant for."""
        side = self._side_px
        scale = side / min(image.size)
        size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    @cached_property
    def _side_px(self) -> int:
        return int(self.model.preprocess(Image.new("RGB", (8, 8))).shape[-1])


def _write(path: Path, vectors: Embeddings, notes: Sequence[bytes], rows: Sequence[int]) -> None:
    dim = max(1, vectors.shape[1])
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns: dict[str, Any] = {
        "vector": pa.FixedSizeListArray.from_arrays(flat, dim),
        "note": pa.array(notes, pa.large_binary()),
        "row": pa.array(rows, pa.int64()),
    }
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        feather.write_feather(pa.table(columns), aside, compression="uncompressed")
        aside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def _vectors(table: pa.Table) -> Embeddings:
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    found: Embeddings = flat.reshape(len(table), -1) if len(table) else np.empty((0, 0), np.float32)
    return found


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
