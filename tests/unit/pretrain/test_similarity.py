"""What filip and fdt keep: in the state while they train, and in the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from clipflow.artifacts import checkpoint
from clipflow.errors import ArtifactError, ParamsError
from clipflow.model import similarity_file
from clipflow.model.batch import Batch
from clipflow.model.codebook import Codebook
from clipflow.model.token_wise import TokenWise
from clipflow.model.towers import Towers
from clipflow.pretrain import stage
from clipflow.pretrain.training import Training
from clipflow.recipes.fdt import CodebookContrastive
from clipflow.recipes.filip import TokenWiseContrastive
from clipflow.register import stage as register
from fakes.artifacts import tokenized
from fakes.launch import make_inputs

VIT = "clipflow-tiny-vit"


def test_several_texts_are_averaged_over_their_versions() -> None:
    """With the same text twice the loss is that of one."""
    torch.manual_seed(0)
    towers = Towers(VIT, 0.07)
    images = torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8)
    names = ["a car", "a red hat", "two", "a blue house"]
    once, twice = (tokenized(towers, [[name] * k for name in names]) for k in (1, 2))
    for objective in (
        TokenWiseContrastive(towers), CodebookContrastive(towers, 8, (16.0, 16.0)),
    ):  # fmt: skip
        one, two = (objective(Batch(images, texts))["loss"] for texts in (once, twice))
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("recipe", ["filip", "fdt"])
def test_towers_without_tokens_are_refused(stage_params: Any, recipe: str) -> None:
    params = stage_params("pretrain", recipe=recipe, architecture="clipflow-tiny")
    with pytest.raises(ParamsError, match=rf"recipe '{recipe}' needs patches and words"):
        params.recipe.objective(stage.build(params))


def train(params: Any, inputs: dict[str, Path], out: Path) -> dict[str, torch.Tensor]:
    """All that the checkpoint has of tensors."""
    stage.run(params, **inputs, checkpoint=out)
    return {
        f"{name} {key}": value
        for name in (checkpoint.WEIGHTS, checkpoint.SIMILARITY)
        for key, value in safetensors.torch.load_file(out / name).items()
    }


def test_the_code_temperature_falls_by_the_same_factor_to_the_last_step_interrupted_or_not(
    stage_params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the codes are the same bit for bit."""
    inputs = make_inputs(tmp_path)
    params = stage_params("pretrain", recipe="fdt", architecture=VIT, log_every=1)
    straight = train(params, inputs, tmp_path / "straight")
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        log = Training._log

        def stopped(self: Training, row: dict[str, float]) -> None:
            log(self, row)
            if self.state.step == 4:
                self.stop.signal = 15

        patch.setattr(Training, "_log", stopped)
        with pytest.raises(SystemExit):
            stage.run(params, **inputs, checkpoint=tmp_path / "resumed")
    resumed = train(params, inputs, tmp_path / "resumed")
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(value, straight[name]) for name, value in resumed.items())
    similarity = similarity_file.read(tmp_path / "resumed")
    assert isinstance(similarity, Codebook)
    assert similarity.temperature.item() == pytest.approx(1)
    history = pq.read_table(tmp_path / "resumed" / checkpoint.HISTORY)
    expected = [100 ** (1 - step / 5) for step in range(6)]
    assert history["code_temperature"].to_pylist() == pytest.approx(expected)


def test_the_checkpoint_has_the_similarity_beside_what_open_clip_loads(
    stage_params: Any, tmp_path: Path
) -> None:
    inputs, out = make_inputs(tmp_path), tmp_path / "checkpoint"
    params = stage_params("pretrain", recipe="filip", architecture=VIT, steps=1)
    stage.run(params, **inputs, checkpoint=out)
    facts = checkpoint.read(out)
    assert facts["similarity"] == "token_wise"
    assert set(facts["sha256"]) == {checkpoint.WEIGHTS, checkpoint.CONFIG, checkpoint.SIMILARITY}
    found = similarity_file.read(out)
    assert isinstance(found, TokenWise)
    assert found.dim == 128
    open_clip.create_model_and_transforms(f"local-dir:{out}")
    with pytest.raises(ArtifactError, match=r"recipe 'filip' compares .* by 'token_wise'"):
        register.run(stage_params("register"), checkpoint=out, report=out, registration=out)
    (out / checkpoint.SIMILARITY).unlink()
    with pytest.raises(ArtifactError, match=r"similarity\.safetensors: missing"):
        checkpoint.read(out)


def test_a_checkpoint_of_clip_knows_of_none(stage_params: Any, tmp_path: Path) -> None:
    inputs, out = make_inputs(tmp_path), tmp_path / "checkpoint"
    stage.run(stage_params("pretrain", recipe="clip", steps=1), **inputs, checkpoint=out)
    assert not (out / checkpoint.SIMILARITY).exists()
    assert "similarity" not in json.loads((out / "manifest.json").read_text())
    assert similarity_file.read(out) is None


def test_initial_weights_bring_their_codebook(
    values: dict[str, Any], stage_params: Any, tmp_path: Path
) -> None:
    first = stage_params("pretrain", recipe="fdt", architecture=VIT, steps=1)
    kept = train(first, make_inputs(tmp_path), tmp_path / "first")
    on = {"architecture": VIT, "initial_weights": str(tmp_path / "first")}
    params = stage_params("pretrain", recipe="fdt", **on)
    objective = stage.build_objective(params, stage.build(params))
    assert isinstance(objective, CodebookContrastive)
    assert torch.equal(objective.similarity.codes, kept[f"{checkpoint.SIMILARITY} codes"])
    assert objective.similarity.codes.requires_grad

    values["recipes"]["fdt"]["num_codes"] = 8
    params = stage_params("pretrain", recipe="fdt", **on)
    with pytest.raises(
        ArtifactError, match=r"has \{'num_codes': 64, .* expected \{'num_codes': 8,"
    ):
        stage.build_objective(params, stage.build(params))
