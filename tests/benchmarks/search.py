"""Milliseconds in which `clipflow search` finds the nearest of 100,000 images, and embeds the text before.

    make bench-search        which is        python tests/benchmarks/search.py

The index against NumPy's product with all vectors and a sort; the text tower of a ViT-B-32 with random
weights against open_clip's own, on the same weights. Vectors are random: an exact search takes as long for
any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import harness
import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.model import pretrained
from clipflow.model.towers import Towers
from clipflow.search.embeddings import Embeddings
from clipflow.search.index import Index

TEXTS = ["a red square", "two dogs that play in the snow", "a bowl of noodles on a wooden table"]
K = 24
QUERIES = 20


def main() -> None:
    """Measure both, in alternation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((args.images, args.dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[: 10 * QUERIES : 10] + 0.05 * rng.standard_normal(
        (QUERIES, args.dim), np.float32
    )
    begun = time.perf_counter()
    index = Index(Embeddings(vectors, np.arange(args.images), {}))
    sys.stdout.write(f"index of {args.images:,} made in {time.perf_counter() - begun:.2f} s\n")

    def brute(query: Any) -> list[int]:
        found: list[int] = np.argsort(-(vectors @ query))[:K].tolist()
        return found

    for query in queries:
        assert [hit.number for hit in index.nearest(query, K)] == brute(query)
    searched = harness.alternate(
        lambda: milliseconds(lambda query: index.nearest(query, K), queries),
        lambda: milliseconds(brute, queries),
        args.runs,
    )
    with tempfile.TemporaryDirectory() as folder:
        make_random(Path(folder))
        clip = pretrained.load(folder, batch_size=64)
        theirs = open_clip.create_model(f"local-dir:{folder}").eval()
        tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")

    def plain(text: str) -> Any:
        with torch.inference_mode():
            return theirs.encode_text(tokenize([text]), normalize=True)[0].numpy()

    for text in TEXTS:
        assert np.allclose(clip.texts([text])[0].numpy(), plain(text), atol=1e-4)
    embedded = harness.alternate(
        lambda: milliseconds(lambda text: clip.texts([text]), TEXTS),
        lambda: milliseconds(plain, TEXTS),
        args.runs,
    )
    harness.report(
        "search",
        [
            harness.Comparison(f"nearest {K} of {args.images:,}", *searched,
                               "NumPy, product and argsort", "ms", "less"),
            harness.Comparison("one text, ViT-B-32", *embedded, "open_clip's text tower", "ms",
                               "less"),
        ],
    )  # fmt: skip


def make_random(folder: Path) -> None:
    """The checkpoint of a ViT-B-32 before any training."""
    torch.manual_seed(0)
    towers = Towers("ViT-B-32", 0.07)
    save_file(towers.clip.state_dict(), folder / checkpoints.WEIGHTS)
    manifest.write_json(folder / checkpoints.CONFIG, towers.config)


def milliseconds(work: Callable[[Any], object], items: Any) -> float:
    """The median of one call."""
    taken = []
    for item in items:
        begun = time.perf_counter()
        work(item)
        taken.append(1e3 * (time.perf_counter() - begun))
    return median(taken)


if __name__ == "__main__":
    main()
