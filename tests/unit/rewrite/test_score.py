import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipflow.artifacts import checkpoint, manifest
from clipflow.artifacts import scores as artifact
from clipflow.artifacts.pairs import Pairs, Writer
from clipflow.errors import ArtifactError
from clipflow.model import pretrained
from clipflow.model.towers import Towers
from clipflow.rewrite import score
from fakes.artifacts import jpeg, make_pairs, make_rewrites

CAPTIONS = {
    "k0": "a red square",
    "k1": "something green",
    "k2": "a very long caption " * 30,
    "k3": "blue, next to nothing else but blue",
    "k4": "yellow",
}
TEXTS = {"k0": ["crimson", "a square that is red all over"], "k3": ["azure"], "k4": ["gold", "sun"]}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint as pretrain writes it."""
    folder = tmp_path_factory.mktemp("score") / "checkpoint"
    folder.mkdir()
    torch.manual_seed(0)
    towers = Towers("clipflow-tiny", 0.07)
    save_file(towers.clip.state_dict(), folder / checkpoint.WEIGHTS)
    manifest.write_json(folder / checkpoint.CONFIG, towers.config)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "pairs", CAPTIONS, samples_per_shard=2)


@pytest.fixture
def run(pairs: Path, weights: Path, tmp_path: Path) -> Callable[..., Any]:
    """Scores the five pairs; returns the rows."""
    rewrites = make_rewrites(tmp_path / "rewrites", pairs, TEXTS)

    def scored(name: str = "scores", **more: Any) -> Any:
        arguments = {"pairs": pairs, "rewrites": rewrites, "checkpoint": str(weights), **more}
        score.run(scores=tmp_path / name, **arguments)
        return artifact.read(tmp_path / name).to_pylist()

    return scored


def cosines(pairs: Path, weights: Path, key: str) -> list[float]:
    """open_clip's own, of one pair."""
    name = f"local-dir:{weights}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenize = open_clip.get_tokenizer(name)
    (at,) = [n for n, known in enumerate(CAPTIONS) if known == key]
    row = list(Pairs(pairs).rows(at // 2, images=True))[at % 2]
    (pairs.parent / "one.jpg").write_bytes(row.image or b"")
    image = preprocess(Image.open(pairs.parent / "one.jpg")).unsqueeze(0)
    with torch.no_grad():
        of_image = model.eval().encode_image(image, normalize=True)
        texts = [CAPTIONS[key], *TEXTS.get(key, [])]
        of_texts = model.encode_text(tokenize(texts), normalize=True)
    return (of_image @ of_texts.T)[0].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_scores_are_open_clips_cosines(
    run: Callable[..., Any], pairs: Path, weights: Path, batch_size: int
) -> None:
    rows = run(batch_size=batch_size)
    assert [row["key"] for row in rows] == list(CAPTIONS)
    for row in rows:
        expected = cosines(pairs, weights, row["key"])
        assert [row["caption"], *row["rewrites"]] == pytest.approx(expected, abs=1e-5)


def test_half_precision_moves_scores_little(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs, by the CPU's autocast."""
    exact = run("exact")
    monkeypatch.setattr(
        score, "load", lambda *args, **more: pretrained.load(*args, **more | {"precision": "bf16"})
    )
    for row, other in zip(run(), exact, strict=True):
        assert row["caption"] == pytest.approx(other["caption"], abs=0.02)
        assert row["caption"] != other["caption"]


def test_the_manifest_tells_what_scored_what(
    run: Callable[..., Any], pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="clipflow"):
        rows = run()
    facts = manifest.read(tmp_path / "scores", artifact.SCHEMA)
    assert facts["pairs"] == manifest.digest(pairs)
    assert facts["rewrites"] == manifest.digest(tmp_path / "rewrites")
    assert len(facts["checkpoint"]["weights"]) == 32
    assert (facts["num_pairs"], facts["num_unreadable"], len(facts["shards"])) == (5, 0, 3)
    captions = [row["caption"] for row in rows]
    assert facts["caption"]["num"] == 5
    assert facts["caption"]["mean"] == pytest.approx(np.mean(captions), abs=1e-5)
    assert facts["caption"]["p50"] == pytest.approx(np.median(captions), abs=2e-4)
    assert facts["rewrite"]["num"] == 5
    assert f"5 captions {facts['caption']['mean']:.4f}" in caplog.text
    again = run("again")
    assert again == rows
    assert manifest.digest(tmp_path / "again") == manifest.digest(tmp_path / "scores")


def test_an_interrupted_run_goes_on(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")
    real, seen = score._shard, list[int]()

    def stops(*arguments: Any) -> Any:
        seen.append(arguments[2])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(score, "_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / "scores").exists()
    assert run() == whole
    assert seen == [0, 1, 1, 2]
    assert manifest.digest(tmp_path / "scores") == manifest.digest(tmp_path / "whole")


def test_a_damaged_image_has_no_scores(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with manifest.complete_or_absent(tmp_path / "pairs") as folder:
        writer = Writer(folder, samples_per_shard=3)
        for key, image in (("a", jpeg()), ("b", b"no image"), ("c", jpeg((0, 0, 200)))):
            writer.add(key, image, f"caption {key}", {})
        writer.close()
    texts = make_rewrites(tmp_path / "rewrites", tmp_path / "pairs", {"b": ["x y"], "c": ["z"]})
    out = tmp_path / "scores"
    score.run(pairs=tmp_path / "pairs", rewrites=texts, checkpoint=str(weights), scores=out)
    a, b, c = artifact.read(out).to_pylist()
    assert (b["caption"], b["rewrites"]) == (None, [None])
    assert None not in (a["caption"], c["caption"], *c["rewrites"])
    assert manifest.read(out, artifact.SCHEMA)["num_unreadable"] == 1
    assert "pair b: no readable image" in caplog.text


def test_weights_may_be_a_file_for_one_of_open_clips_architectures(
    run: Callable[..., Any], weights: Path
) -> None:
    rows = run(checkpoint="clipflow-tiny", pretrained=str(weights / checkpoint.WEIGHTS))
    expected = run("other")
    for row, other in zip(rows, expected, strict=True):
        assert row["caption"] == pytest.approx(other["caption"], abs=1e-3)


def test_refuses_a_model_without_weights(
    run: Callable[..., Any], weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copy(weights / checkpoint.CONFIG, tmp_path / "bare")
    with pytest.raises(ArtifactError, match=r"bare: it can't be loaded .*pretrained weights"):
        run(checkpoint=str(tmp_path / "bare"))
    assert not (tmp_path / "scores").exists()


def test_refuses_other_artifacts(run: Callable[..., Any], pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"expected clipflow.rewrites/2, no such folder"):
        run(rewrites=tmp_path / "none")
    other = make_pairs(tmp_path / "other", {"x": "a b", "y": "c d"})
    with pytest.raises(ArtifactError, match="its keys are not those of"):
        run(pairs=other)
    broken = tmp_path / "rewrites" / "00001.parquet"
    broken.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"00001.parquet: missing or damaged"):
        run()
