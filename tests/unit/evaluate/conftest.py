"""A random model of two one-layer towers, and tasks of coloured squares for it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipflow import track
from clipflow.artifacts import benchmarks, checkpoint, manifest
from clipflow.evaluate.params import Params
from clipflow.track import Run

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 220)}
COLOURS |= {"yellow": (230, 220, 40), "black": (20, 20, 20), "white": (240, 240, 240)}
TEMPLATES = ["a photo of a {c} square", "{c}", "the colour {c}"]
SYNONYMS = [["crimson", "scarlet"], ["lime"], ["azure"], ["golden"], ["dark"], ["pale", "snow"]]
EVIL = '<script>alert("caption")</script>'
MODEL = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1
    },
}  # fmt: skip
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


def square(colour: str, seed: int) -> bytes:
    """A JPEG of one colour with noise."""
    noise = np.random.default_rng(seed).normal(0, 12, (32, 32, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def squares(count: int, seed: int) -> list[tuple[bytes, int]]:
    names = list(COLOURS)
    return [(square(names[n % 6], seed + n), n % 6) for n in range(count)]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "checkpoint"
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**{k: v for k, v in MODEL.items() if k != "custom_text"})
    save_file(model.state_dict(), folder / checkpoint.WEIGHTS)
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / checkpoint.CONFIG).write_text(json.dumps(config))
    steps = list(range(0, 200, 10))
    columns = {"step": steps, "loss": [4 / (1 + s / 50) for s in steps], "lr": [1e-3] * len(steps)}
    pq.write_table(pa.table(columns), folder / checkpoint.HISTORY)
    pairs = [
        {"key": f"k{n}", "image": square(colour, n), "caption": caption, "rewrites": rewrites}
        for n, (colour, caption, rewrites) in enumerate(
            [("red", f"red {EVIL}", ["a crimson square", EVIL]), ("blue", "blue", [])]
        )
    ]
    pq.write_table(pa.Table.from_pylist(pairs), folder / checkpoint.EXAMPLES)
    (folder / checkpoint.PROVENANCE).write_text(json.dumps({"mlflow_run_id": "none"}))
    manifest.write(
        folder,
        checkpoint.SCHEMA,
        recipe="laclip",
        architecture="tiny",
        params={"steps": 200, "batch_size": 64},
    )
    return folder


@pytest.fixture(scope="session")
def tiny_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "benchmarks"
    folder.mkdir()
    writer = benchmarks.Writer(folder)
    splits = {"train": squares(60, 1000), "test": squares(24, 0)}
    writer.add_classification("colours", list(COLOURS), TEMPLATES, splits, SYNONYMS)
    two = [(jpeg, label) for jpeg, label in squares(24, 500) if label < 2]
    writer.add_classification("warmth", ["red", "green"], TEMPLATES[:1], {"test": two})
    names = list(COLOURS)
    writer.add_retrieval(
        "captions",
        [
            (square(names[n % 6], 2000 + n), [f"a {names[n % 6]} square {n}", f"{EVIL} {n}"])
            for n in range(12)
        ],
    )
    writer.close()
    return folder


@pytest.fixture(autouse=True)
def own_scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds what another has embedded."""
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("CLIPFLOW_DATA", str(tmp_path / "data"))


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stage without MLflow and without a champion; where its report goes."""

    @contextmanager
    def nowhere(run_id: str | None, *, name: str) -> Iterator[Run]:
        yield Run()

    monkeypatch.setattr(track, "connect", lambda: None)
    monkeypatch.setattr(track, "champion_history", lambda model, metric: None)
    monkeypatch.setattr(track, "reopen", nowhere)
    return tmp_path / "report"


@pytest.fixture
def params() -> Callable[..., Params]:
    values = {
        "suites": {},
        "templates": None,
        "batch_size": 7,
        "precision": "fp32",
        "recall_at": [1, 5],
        "probe_c": [0.1, 10.0, 1000.0],
        "probe_halvings": 0,
        "few_shot": {"shots": [1, 4], "draws": 2},
        "robustness": {"corruptions": [], "severities": [1, 5]},
        "out_of_distribution": {},
        "gallery_size": 3,
        "seed": 0,
        "champion": "clipflow-test",
    }
    return lambda **changes: Params.model_validate({**values, **changes})
