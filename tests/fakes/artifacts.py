"""Tiny real artifacts."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from clipflow.artifacts import manifest, rewrites
from clipflow.artifacts.pairs import Pairs, Writer
from clipflow.model.texts import Texts, grouped
from clipflow.model.tokens import Tokenizer
from clipflow.model.towers import Towers
from clipflow.pretrain.samples import Samples, join

ROOT = Path(__file__).parents[2]


def jpeg(colour: tuple[int, int, int] = (200, 30, 30), size_px: int = 32) -> bytes:
    """A plain JPEG."""
    out = io.BytesIO()
    Image.new("RGB", (size_px, size_px), colour).save(out, "JPEG")
    return out.getvalue()


def make_pairs(out: Path, captions: dict[str, str], samples_per_shard: int = 40) -> Path:
    """A `pairs` artifact with one plain image per caption, each of another colour."""
    with manifest.complete_or_absent(out) as folder:
        writer = Writer(folder, samples_per_shard)
        for number, (key, caption) in enumerate(captions.items()):
            writer.add(key, jpeg((number * 37 % 256, number * 91 % 256, 80)), caption, {})
        writer.close()
    return out


def make_rewrites(out: Path, pairs: Path, texts: dict[str, list[str]]) -> Path:
    """A `rewrites` artifact with given accepted texts per key."""
    with manifest.complete_or_absent(out) as folder:
        writer = rewrites.Writer(folder)
        for name, keys, _ in Pairs(pairs).by_shard():
            writer.add_shard(
                name,
                {
                    key: [
                        {"text": text, "source": "test", "outcome": "accepted"}
                        for text in texts.get(key, [])
                    ]
                    for key in keys
                },
            )
        writer.close()
    return out


def tokenized(towers: Towers, versions: list[list[str]]) -> Texts:
    """The texts of some pairs as the loader makes them."""
    tokens = Tokenizer(towers.tokenizer)([text for texts in versions for text in texts])
    return grouped(tokens.unflatten(0, (len(versions), -1)), trims=towers.trims_text)


def make_samples(folder: Path, pairs: Path, texts: Path) -> Samples:
    """Pairs joined with their rewrites."""
    join(Pairs(pairs), texts, folder / "samples.arrow")
    return Samples(Pairs(pairs), folder / "samples.arrow")
