"""Two processes equal one: same losses, same embeddings, for every recipe, launched by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML

from clipflow import params as params_file
from clipflow.artifacts import checkpoint
from clipflow.pretrain import stage
from clipflow.recipes import CATALOGUE
from fakes.artifacts import make_pairs, make_rewrites

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" + " and more" * (n % 5) for n in range(32)}


@pytest.mark.parametrize("recipe", CATALOGUE.names())
def test_two_processes_equal_one(tmp_path: Path, values: dict[str, Any], recipe: str) -> None:
    pairs = make_pairs(tmp_path / "pairs", CAPTIONS)
    texts = make_rewrites(tmp_path / "rewrites", pairs, {k: [f"rewrite of {k}"] for k in CAPTIONS})
    values["pretrain"] |= {"recipe": recipe, "steps": 20, "log_every": 1}
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    params = params_file.load(tmp_path / "params.yaml", "pretrain")
    stage.run(params, pairs=pairs, rewrites=texts, checkpoint=tmp_path / "1")
    env = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1",
                        "CLIPFLOW_SCRATCH": str(tmp_path / "scratch2")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         "-m", "clipflow", "pretrain", "--pairs", str(pairs), "--rewrites", str(texts),
         "--checkpoint", str(tmp_path / "2"), "--params", str(tmp_path / "params.yaml")],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 x cpu" in done.stderr
    one, two = (pq.read_table(tmp_path / w / checkpoint.HISTORY).to_pydict() for w in ("1", "2"))
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    # Not weight by weight: a key's bias has no effect and no gradient but rounding, which Adam magnifies.
    first, second = (embeddings(tmp_path / world) for world in ("1", "2"))
    torch.testing.assert_close(second, first, atol=2e-4, rtol=0)


def embeddings(folder: Path) -> torch.Tensor:
    """What a checkpoint makes of some images and texts."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(CAPTIONS.values()))
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat(
            [
                model.eval().encode_image(images, normalize=True),
                model.encode_text(tokens, normalize=True),
            ]
        )
