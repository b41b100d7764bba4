"""Real photographs with captions of real length, for benchmarks that anyone can run without a download.

Crops, flips and shifts of brightness of the two photographs that scikit-learn ships; captions of words of
the rewrite stage's example captions, of lengths as in CC3M (10 words on average).
"""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from clipflow import rewrite
from clipflow.artifacts import manifest, rewrites
from clipflow.artifacts.pairs import Pairs, Writer

MEAN_WORDS, SPREAD_WORDS, MAX_WORDS = 10.0, 4.5, 40


def make_shards(folder: Path, num: int, size_px: tuple[int, int], seed: int = 0) -> Path:
    """A `pairs` artifact of `num` JPEGs of `size_px` (width, height), unless it is there."""
    if folder.exists():
        return folder
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng, words = random.Random(seed), _words()
    with manifest.complete_or_absent(folder) as partial:
        writer = Writer(partial, samples_per_shard=1000)
        for number in range(num):
            whole = rng.choice(photographs)
            width = rng.randint(whole.width // 2, whole.width)
            height = min(whole.height, width * size_px[1] // size_px[0])
            x, y = rng.randint(0, whole.width - width), rng.randint(0, whole.height - height)
            image = whole.crop((x, y, x + width, y + height)).resize(size_px)
            image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))
            out = io.BytesIO()
            (ImageOps.mirror(image) if rng.random() < 0.5 else image).save(out, "JPEG", quality=90)
            writer.add(f"{number:08d}", out.getvalue(), _caption(rng, words), {})
        writer.close()
    return folder


def make_rewrites(folder: Path, pairs: Path, num: int = 4, seed: int = 1) -> Path:
    """`num` rewrites of each caption, of the same lengths, unless they are there."""
    if folder.exists():
        return folder
    rng, words = random.Random(seed), _words()
    with manifest.complete_or_absent(folder) as partial:
        writer = rewrites.Writer(partial)
        for name, keys, _ in Pairs(pairs).by_shard():
            rows: dict[str, list[rewrites.Candidate]] = {
                key: [
                    {"text": _caption(rng, words), "source": "photos", "outcome": "accepted"}
                    for _ in range(num)
                ]
                for key in keys
            }
            writer.add_shard(name, rows)
        writer.close(pairs=manifest.digest(pairs))
    return folder


def _words() -> list[str]:
    files = sorted((Path(rewrite.__path__[0]) / "meta_pairs").glob("*.tsv"))
    return " ".join(file.read_text(encoding="utf-8") for file in files).split()


def _caption(rng: random.Random, words: list[str]) -> str:
    num = round(rng.gauss(MEAN_WORDS, SPREAD_WORDS))
    return " ".join(rng.choices(words, k=min(MAX_WORDS, max(3, num))))
