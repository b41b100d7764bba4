"""Training for real, in tiny: checkpoints, resuming, signals, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from ruamel.yaml import YAML

from clipflow.artifacts import checkpoint, rewrites
from clipflow.errors import ArtifactError, ClipflowError, TrackingError
from clipflow.model.towers import Towers
from clipflow.pretrain import processes, stage
from clipflow.pretrain.resume import Scratch
from fakes.artifacts import make_pairs, make_rewrites

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" for n in range(48)}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    pairs = make_pairs(tmp_path / "pairs", CAPTIONS)
    texts = make_rewrites(tmp_path / "rewrites", pairs, {k: [f"rewrite of {k}"] for k in CAPTIONS})
    return {"pairs": pairs, "rewrites": texts}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / checkpoint.WEIGHTS)


def equal(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_the_checkpoint_is_open_clips(
    tmp_path: Path, data: dict[str, Path], stage_params: Any
) -> None:
    out = tmp_path / "checkpoint"
    stage.run(stage_params("pretrain"), **data, checkpoint=out)
    assert checkpoint.read(out)["recipe"] == "laclip"
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(["a red car"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights(out)[name]), name
    ours = Towers("clipflow-tiny", 0.07).eval()
    ours.clip.load_state_dict(weights(out))
    with torch.no_grad():
        theirs = model.eval().encode_text(tokens, normalize=True)
        torch.testing.assert_close(ours.text(ours.tokenize(["a red car"])), theirs)
    assert preprocess.transforms[0].size == 64
    history = pq.read_table(out / checkpoint.HISTORY).to_pydict()
    assert history["step"] == [2, 4, 6]
    assert all(loss > 0 for loss in history["loss"])
    assert pq.read_table(out / checkpoint.EXAMPLES).num_rows == 12
    assert len(checkpoint.provenance(out)["mlflow_run_id"]) == 32
    assert not (tmp_path / "scratch").exists() or not any((tmp_path / "scratch").iterdir())


def test_same_seed_same_weights(tmp_path: Path, data: dict[str, Path], stage_params: Any) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stage.run(stage_params("pretrain", seed=seed), **data, checkpoint=tmp_path / name)
    assert equal(tmp_path / "a", tmp_path / "b")
    assert not equal(tmp_path / "a", tmp_path / "c")


def test_interrupted_anywhere_it_ends_the_same(
    tmp_path: Path, data: dict[str, Path], stage_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception after step 3, the last state being of step 2: the weights come out bit-identical."""
    params = stage_params("pretrain")
    stage.run(params, **data, checkpoint=tmp_path / "straight")
    clamp = Towers.clamp_scale
    steps = 0

    def fail(self: Towers) -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise RuntimeError("power cut")
        clamp(self)

    monkeypatch.setattr(Towers, "clamp_scale", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        stage.run(params, **data, checkpoint=tmp_path / "resumed")
    assert not (tmp_path / "resumed").exists()
    monkeypatch.setattr(Towers, "clamp_scale", clamp)
    stage.run(params, **data, checkpoint=tmp_path / "resumed")
    assert equal(tmp_path / "straight", tmp_path / "resumed")
    straight, resumed = (
        pq.read_table(tmp_path / name / checkpoint.HISTORY).to_pydict()
        for name in ("straight", "resumed")
    )
    assert straight["loss"] == resumed["loss"]


def test_other_params_data_or_models_do_not_resume(
    data: dict[str, Path], stage_params: Any
) -> None:
    folders = {
        Scratch(stage_params("pretrain"), {}, data).folder,
        Scratch(stage_params("pretrain", seed=1), {}, data).folder,
        Scratch(stage_params("pretrain", recipe="clip"), {}, data).folder,
        Scratch(stage_params("pretrain"), {"width": 64}, data).folder,
        Scratch(stage_params("pretrain"), {}, {"pairs": data["pairs"]}).folder,
    }
    assert len(folders) == 5


def test_a_run_going_on_keeps_others_off(data: dict[str, Path], stage_params: Any) -> None:
    scratch = Scratch(stage_params("pretrain"), {}, data)
    with (
        scratch.locked(True),
        pytest.raises(ClipflowError, match="still going on in another process"),
        scratch.locked(True),
    ):
        pass
    with scratch.locked(True):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_kill_minus_nine_loses_little(
    tmp_path: Path, data: dict[str, Path], values: dict[str, Any], number: signal.Signals
) -> None:
    values["pretrain"] |= {"steps": 4000, "warmup_steps": 5, "checkpoint_every": 3, "log_every": 1}
    file = tmp_path / "long.yaml"
    with file.open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    flags = [f"--{name}={path}" for name, path in data.items()]
    command = [sys.executable, "-m", "clipflow", "pretrain", *flags,
               "--checkpoint", str(tmp_path / "c"), "--params", str(file)]  # fmt: skip

    def launch() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))

    def wait_for_state(newer_than: float) -> Path:
        for _ in range(600):
            states = list((tmp_path / "scratch").glob("*/state.pt"))
            if states and states[0].stat().st_mtime > newer_than:
                return states[0]
            time.sleep(0.1)
        raise AssertionError("no state was saved")

    first = launch()
    state = wait_for_state(0)
    first.kill()
    first.communicate()
    killed_at = torch.load(state)["state"]["step"]
    assert killed_at % 3 == 0

    second = launch()
    wait_for_state(state.stat().st_mtime)
    second.send_signal(number)
    _, errors = second.communicate(timeout=60)
    stopped_at = torch.load(state)["state"]["step"]
    assert f"resuming after step {killed_at}" in errors
    assert f"stopped after step {stopped_at}; run it again to go on" in errors
    assert second.returncode == 128 + number
    assert not (tmp_path / "c").exists()


def test_refusals(
    tmp_path: Path, data: dict[str, Path], stage_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, out = stage_params("pretrain"), tmp_path / "c"
    with pytest.raises(
        ArtifactError, match=r"expected clipflow.pairs/1, found clipflow.rewrites/1"
    ):
        stage.run(params, pairs=data["rewrites"], rewrites=data["rewrites"], checkpoint=out)
    others = make_pairs(tmp_path / "others", {"x": "other caption"})
    with pytest.raises(ArtifactError, match="1 of 1 pairs have no row"):
        stage.run(params, pairs=others, rewrites=data["rewrites"], checkpoint=out)
    for name, value in (
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("ACCELERATE_USE_CPU", "0"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(ClipflowError, match="launched as 2 processes but accelerate sees 1"):
        processes.accelerator(params)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:9: no answer"):
        stage.run(params, **data, checkpoint=out)
    assert not out.exists()


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, data: dict[str, Path], stage_params: Any
) -> None:
    with pytest.raises(
        ClipflowError, match=r"the loss became nan before step .* lower pretrain.lr"
    ):
        stage.run(stage_params("pretrain", lr=1e30, warmup_steps=0, steps=40), **data,
                  checkpoint=tmp_path / "c")  # fmt: skip


def test_rewrites_reach_training(tmp_path: Path, data: dict[str, Path], stage_params: Any) -> None:
    """Other rewrites change LaCLIP's weights, and leave CLIP's as they are."""
    other = make_rewrites(
        tmp_path / "other", data["pairs"], {k: ["something else"] for k in CAPTIONS}
    )
    assert rewrites.read(other).num_rows == 48
    for recipe, same in (("clip", True), ("laclip", False)):
        for name, texts in (("a", data["rewrites"]), ("b", other)):
            stage.run(stage_params("pretrain", recipe=recipe), pairs=data["pairs"], rewrites=texts,
                      checkpoint=tmp_path / recipe / name)  # fmt: skip
        assert equal(tmp_path / recipe / "a", tmp_path / recipe / "b") is same
