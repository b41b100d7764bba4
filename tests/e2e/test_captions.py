"""From images to captions that a model writes of them, to recipes that train on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipflow.artifacts import checkpoint, rewrites
from clipflow.pretrain import stage as pretrain
from clipflow.rewrite import stage as rewrite
from fakes.artifacts import make_pairs
from fakes.tiny_blip import WORDS, make_blip


@pytest.mark.parametrize(
    ("recipe", "measure"), [("alip", "synthetic_weight"), ("dreamlip", "grouping_loss")]
)
def test_a_captioners_captions_are_trained_on(
    values: dict[str, Any], stage_params: Any, tmp_path: Path, recipe: str, measure: str
) -> None:
    values["generators"]["captioner"] |= {
        "model": str(make_blip(tmp_path / "blip")),
        "max_new_tokens": 40,
    }
    pairs = make_pairs(tmp_path / "pairs", {f"k{n:02d}": "scenery" for n in range(32)})
    rewrite.run(stage_params("rewrite", generator="captioner", max_words=30), pairs=pairs,
                rewrites=tmp_path / "captions")  # fmt: skip
    captions = [
        text for row in rewrites.read(tmp_path / "captions").to_pylist() for text in row["rewrites"]
    ]
    assert len(set(captions)) > 8
    assert {word for text in captions for word in text.lower().strip(".").split()} <= {*WORDS}
    params = stage_params(
        "pretrain", recipe=recipe, architecture="clipflow-tiny-vit", steps=2, log_every=1
    )
    pretrain.run(
        params, pairs=pairs, rewrites=tmp_path / "captions", checkpoint=tmp_path / "checkpoint"
    )
    history = pq.read_table(tmp_path / "checkpoint" / checkpoint.HISTORY)
    assert min(history["tokens_per_text"].to_pylist()) > 3  # "scenery" alone has as many
    assert all(value > 0 for value in history[measure].to_pylist())
