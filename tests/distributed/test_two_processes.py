"""Two processes equal one: same losses, same embeddings, for every recipe, replicated and sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import torch

from clipflow import params as params_file
from clipflow.artifacts import checkpoint
from clipflow.pretrain import stage
from clipflow.recipes import CATALOGUE
from fakes import tiny_roberta
from fakes.launch import CAPTIONS, Launch, make_inputs
from fakes.recipes import architecture

SHARDED = {"sharded": True, "clip_grad_norm": 1.0, "ema_decay": 0.5, "chunk_size": 4}


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        *((name, {}) for name in CATALOGUE.names()),
        ("laclip", SHARDED),
        ("siglip", {**SHARDED, "texts": 2}),
        ("fdt", {**SHARDED, "texts": 2}),
        ("alip", SHARDED),
    ],
    ids=[
        *CATALOGUE.names(),
        *(f"{name}-sharded" for name in ("laclip", "siglip", "fdt", "alip")),
    ],
)
def test_two_processes_equal_one(
    tmp_path: Path, values: dict[str, Any], recipe: str, changes: dict[str, Any]
) -> None:
    values["pretrain"] |= {
        "recipe": recipe,
        "architecture": architecture(recipe),
        "steps": 8,
        "log_every": 1,
        "checkpoint_every": 6,
        **changes,
    }
    inputs = make_inputs(tmp_path)
    params = params_file.parse(params_file.select(values, "pretrain"), "pretrain")
    stage.run(params, **inputs, checkpoint=tmp_path / "1")
    statuses, errors = Launch(2, values, inputs, tmp_path / "2", tmp_path / "scratch2").wait()
    assert statuses == [0, 0], errors[-3000:]
    assert "on 2 x cpu" in errors
    assert ("sharded" in errors) is bool(changes)
    one, two = (pq.read_table(tmp_path / w / checkpoint.HISTORY).to_pydict() for w in ("1", "2"))
    # Rounding, 1e-7 at first, grows with the steps, most in siglip's gradients where they are clipped.
    for name, loosely in (("loss", 3e-5), ("grad_norm", 5e-3)):
        assert two[name][:4] == pytest.approx(one[name][:4], rel=1e-5, abs=1e-6)
        assert two[name] == pytest.approx(one[name], rel=loosely, abs=1e-5)
    # Not weight by weight: a key's bias has no effect and no gradient but rounding, which Adam magnifies.
    first, second = (embeddings(tmp_path / world) for world in ("1", "2"))
    torch.testing.assert_close(second, first, atol=2e-4, rtol=0)


def test_two_processes_have_the_clusters_of_one_text_teacher(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    """Each has the teacher whole, however the objective is sharded, and reads its share of the texts."""
    teacher = tiny_roberta.save(tmp_path / "roberta", CAPTIONS.values())
    values["recipes"]["protoclip"] |= {"text_teacher": str(teacher)}
    test_two_processes_equal_one(
        tmp_path, values, "protoclip", {**SHARDED, "chunk_size": None, "texts": 2}
    )


def embeddings(folder: Path) -> torch.Tensor:
    """What a checkpoint makes of some images and texts."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(CAPTIONS.values()))
    side = model.visual.image_size if isinstance(model.visual.image_size, int) else 64
    images = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat(
            [
                model.eval().encode_image(images, normalize=True),
                model.encode_text(tokens, normalize=True),
            ]
        )
