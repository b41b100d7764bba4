"""On a CUDA device: bfloat16 training runs, learns, and its checkpoint loads on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import torch

from clipflow.artifacts import checkpoint
from clipflow.pretrain import stage
from fakes.artifacts import make_pairs, make_rewrites

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_bfloat16_training(tmp_path: Path, stage_params: Any) -> None:
    captions = {f"k{n:02d}": f"a caption of image {n}" for n in range(48)}
    pairs = make_pairs(tmp_path / "pairs", captions)
    texts = make_rewrites(tmp_path / "rewrites", pairs, {k: [f"rewrite of {k}"] for k in captions})
    out = tmp_path / "checkpoint"
    params = stage_params("pretrain", steps=30, precision="auto")
    stage.run(params, pairs=pairs, rewrites=texts, checkpoint=out)
    losses = pq.read_table(out / checkpoint.HISTORY).to_pydict()["loss"]
    assert losses[-1] < losses[0]
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    assert next(model.parameters()).device.type == "cpu"
