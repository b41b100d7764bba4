"""Seconds of a zero-shot evaluation, against CLIP_benchmark's code, on the same model and files.

    make bench-evaluate        which is        python tests/benchmarks/evaluate.py

A ViT-B-32 with random weights, 500 images of 340 x 256 px in CLIP-benchmark's layout, 50 classes by 80
templates, float32, batches of 64. Both sides make the classifier and classify; loading the model doesn't
count.
`again` is ours with the embeddings that it has kept, as after a change of what is measured with them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import open_clip
import photos
import torch
from safetensors.torch import save_file

from clipflow.artifacts import benchmarks, manifest
from clipflow.artifacts.pairs import Pairs
from clipflow.evaluate import zero_shot
from clipflow.evaluate.embed import Embedder, Wanted
from clipflow.evaluate.scores import DOT_PRODUCT
from clipflow.model.pretrained import load

ARCHITECTURE, BATCH = "ViT-B-32", 64


def main() -> None:
    """Make model and task, then measure in alternation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CLIPFLOW_SCRATCH"] = str(folder / "scratch")
        checkpoint = make_checkpoint(folder / "checkpoint")
        task = make_task(folder / "benchmarks", args.images, args.classes)
        found: dict[str, np.ndarray] = {}

        def ours() -> float:
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            return evaluate(checkpoint, task, found)

        first, theirs = harness.alternate(ours, partial(peer, checkpoint, task, found), args.runs)
        again = [evaluate(checkpoint, task, found) for _ in range(args.runs)]
    gap = np.abs(found["ours"] - found["theirs"]).max()
    print(f"largest difference of two cosines: {gap:.1e}")
    assert gap < 1e-4
    harness.report(
        "evaluate",
        [
            harness.Comparison("zero-shot", first, theirs, "CLIP_benchmark 1.6.2", "s", "less"),
            harness.Comparison("again", again, theirs, "CLIP_benchmark 1.6.2", "s", "less"),
        ],
    )


def evaluate(checkpoint: Path, task: benchmarks.Task, found: dict[str, np.ndarray]) -> float:
    """Ours."""
    embedder = Embedder(load(str(checkpoint), batch_size=BATCH))
    start = time.perf_counter()
    images, _ = embedder.images(Wanted(task, "test"))
    encode = partial(embedder.texts, what="texts")
    names = [[name] for name in task.classnames]
    found["ours"] = zero_shot.classes(encode, names, task.templates, DOT_PRODUCT)(images)
    return time.perf_counter() - start


def peer(checkpoint: Path, task: benchmarks.Task, found: dict[str, np.ndarray]) -> float:
    """CLIP_benchmark's classifier and its loop over images."""
    warnings.simplefilter("ignore")
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics import zeroshot_classification as theirs

    name = f"local-dir:{checkpoint}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    start = time.perf_counter()
    data = build_dataset(f"wds/{task.name}", str(task.folder), preprocess, "test")
    batches = torch.utils.data.DataLoader(data.batched(BATCH), batch_size=None, num_workers=1)
    classifier = theirs.zero_shot_classifier(
        model.eval(), tokenizer, data.classes, data.templates, "cpu", amp=False
    )
    logits, _ = theirs.run_classification(model, classifier, batches, "cpu", amp=False)
    found["theirs"] = logits.numpy() / 100
    return time.perf_counter() - start


def make_checkpoint(folder: Path) -> Path:
    """Random weights as open_clip loads them."""
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE)
    save_file(model.state_dict(), folder / "model.safetensors")
    config: dict[str, Any] = {"model_cfg": open_clip.get_model_config(ARCHITECTURE)}
    config["preprocess_cfg"] = open_clip.get_model_preprocess_cfg(model)
    manifest.write_json(folder / "open_clip_config.json", config)
    return folder


def make_task(folder: Path, num_images: int, num_classes: int) -> benchmarks.Task:
    """Photograph-like images with classes of ImageNet, which mean nothing here."""
    folder.mkdir()
    writer = benchmarks.Writer(folder)
    pairs = Pairs(photos.make_shards(folder.with_name("pairs"), num_images, (340, 256)))
    images = (
        row.image or b""
        for shard in range(len(pairs.shards))
        for row in pairs.rows(shard, images=True)
    )
    rows = [(jpeg, n % num_classes) for n, jpeg in enumerate(images)]
    templates = [template("{c}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    names = open_clip.IMAGENET_CLASSNAMES[:num_classes]
    writer.add_classification("task", names, templates, {"test": rows})
    writer.close()
    (task,) = benchmarks.read(folder)
    return task


if __name__ == "__main__":
    main()
