"""Exports of versions in a real registry, loaded by open_clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from typer.testing import CliRunner

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.cli import app
from clipflow.errors import ArtifactError, TrackingError
from clipflow.registry import export

OUT = Path("out")


def listed() -> set[str]:
    return {path.relative_to(OUT).as_posix() for path in OUT.rglob("*")}


def test_open_clip_loads_it_and_the_hub_reads_its_card(
    make_checkpoint: Callable[..., Path], register: Callable[..., None]
) -> None:
    checkpoint = make_checkpoint(0)
    for name in (checkpoints.HISTORY, checkpoints.EXAMPLES):
        (checkpoint / name).write_bytes(b"of training")
    (checkpoint / "tokenizer.json").write_text("{}")
    register(0)
    arguments = ["export", "scenes@champion", "--out", str(OUT)]
    result = CliRunner().invoke(app, [*arguments, "--license", "cc-by-4.0", "--dataset", "a/b"])
    assert result.exit_code == 0, result.output
    assert "wrote out: scenes version 1 @challenger @champion, license cc-by-4.0" in result.output
    assert listed() == {
        "README.md",
        "manifest.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
    }
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{OUT}")
    weights = load_file(checkpoint / checkpoints.WEIGHTS)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name

    _, front, card = (OUT / "README.md").read_text().split("---\n", 2)
    assert YAML(typ="safe").load(front) == {
        "license": "cc-by-4.0",
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "laclip", "tiny"],
        "datasets": ["a/b"],
    }
    assert card.strip() == track.aliased("scenes", "champion").description.strip()
    facts = manifest.read(OUT, export.SCHEMA)
    assert (facts["model"], facts["version"]) == ("scenes", "1")
    assert facts["checkpoint"] == manifest.digest(checkpoint)


def test_replaces_an_export_and_nothing_else(register: Callable[..., None]) -> None:
    register(0)
    OUT.mkdir()  # empty
    export.run("scenes/1", OUT)
    assert "license: unknown\n" in (OUT / "README.md").read_text()
    assert "datasets" not in (OUT / "README.md").read_text()
    (OUT / "stale").touch()
    export.run("scenes/1", OUT)
    assert "stale" not in listed()

    for other in (Path("checkpoint0"), Path("photos")):
        other.mkdir(exist_ok=True)
        (other / "kept").touch()
        with pytest.raises(ArtifactError, match=f"{other}: expected no such folder, or an export"):
            export.run("scenes/1", other)
        assert (other / "kept").exists()


def test_complete_or_absent(
    make_checkpoint: Callable[..., Path], register: Callable[..., None]
) -> None:
    checkpoint = make_checkpoint(0)
    facts = manifest.read(checkpoint, checkpoints.SCHEMA)
    digest = manifest.file_digest(checkpoint / checkpoints.WEIGHTS)
    manifest.write_json(
        checkpoint / manifest.MANIFEST, facts | {"sha256": {checkpoints.WEIGHTS: digest}}
    )
    register(0)
    export.run("scenes/1", OUT)
    (stored,) = Path("artifacts/mlflow").rglob(checkpoints.WEIGHTS)
    good, before = stored.read_bytes(), (OUT / "manifest.json").read_bytes()
    stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"expected SHA-256 {digest}, found"):
        export.run("scenes/1", OUT)
    with pytest.raises(ArtifactError):
        export.run("scenes/1", Path("new"))
    assert not Path("new").exists()
    assert (OUT / "manifest.json").read_bytes() == before

    stored.write_bytes(good)
    (card,) = Path("artifacts/mlflow").rglob("README.md")
    card.unlink()
    with pytest.raises(TrackingError, match="expected a model card among the model's files"):
        export.run("scenes/1", OUT)
    register(0)  # as it advises
    export.run("scenes/1", OUT)
