"""A checkpoint small enough to register in a test, and a report of chosen metrics."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import report as reports

ARCHITECTURE = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def make(seed: int = 0, run_id: str = "none") -> Path:
        folder = tmp_path / f"checkpoint{seed}"
        folder.mkdir()
        torch.manual_seed(seed)
        sizes = {key: value for key, value in ARCHITECTURE.items() if key != "custom_text"}
        model = open_clip.CustomTextCLIP(**sizes)
        save_file(model.state_dict(), folder / checkpoints.WEIGHTS)
        config = {"model_cfg": ARCHITECTURE, "preprocess_cfg": {"size": [32, 32]}}
        manifest.write_json(folder / checkpoints.CONFIG, config)
        lineage = {"git_sha": "abc", "pairs_digest": "0" * 32, "mlflow_run_id": run_id}
        lineage[checkpoints.VERSIONS] = {name: version(name) for name in checkpoints.PACKAGES}
        manifest.write_json(folder / checkpoints.PROVENANCE, lineage)
        manifest.write(
            folder,
            checkpoints.SCHEMA,
            recipe="laclip",
            architecture="tiny",
            params={"steps": 10},
            seed=seed,
        )
        return folder

    return make


@pytest.fixture
def make_report(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, benchmarks: str = "b" * 32, **metrics: float) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        named = {f"zero_shot/{task}/top1": value for task, value in metrics.items()}
        manifest.write_json(folder / reports.METRICS, named)
        digest = manifest.file_digest(folder / reports.METRICS)
        manifest.write(folder, reports.SCHEMA, benchmarks=benchmarks, sha256=digest)
        return folder

    return make
