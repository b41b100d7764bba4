"""score: the cosine of every image with its caption and its rewrites, by any open_clip model.

A text that says less of its image scores lower: recipes may weigh texts so, as ALIP does (Yang et al. 2023,
arXiv:2308.08428).
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa
from PIL import Image
from torch import Tensor

from clipflow import log
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as rewrites_artifact
from clipflow.artifacts import scores as artifact
from clipflow.artifacts.pairs import Pairs, Row
from clipflow.model.pretrained import Pretrained, load

logger = logging.getLogger(__name__)


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
    clip = load(checkpoint, pretrained, batch_size=batch_size, precision="auto")
    clip.need_dot_product("scoring takes")
    made_with = {
        "pairs": manifest.digest(pairs),
        "rewrites": manifest.digest(rewrites),
        "checkpoint": {"name": clip.name, "pretrained": pretrained, "weights": clip.digest},
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


def _shard(
    clip: Pretrained, source: Pairs, number: int, texts: pa.ListArray, done: Callable[[int], object]
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
    clip: Pretrained, pool: ThreadPoolExecutor, batch: list[tuple[Row, list[str]]]
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


def _pixels(clip: Pretrained, row: Row) -> Tensor | None:
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
