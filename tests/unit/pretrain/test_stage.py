"""Training for real, in tiny: checkpoints, resuming, signals, refusals."""

from __future__ import annotations

import logging
import re
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
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from ruamel.yaml import YAML

from clipflow.artifacts import checkpoint, rewrites
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError, ClipflowError, TrackingError
from clipflow.model import pretrained
from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from clipflow.pretrain import processes, stage
from clipflow.recipes import CATALOGUE
from fakes.artifacts import make_pairs, make_rewrites, tokenized
from fakes.launch import make_inputs
from fakes.power_cut import power_cut
from fakes.recipes import architecture

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" for n in range(48)}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    return make_inputs(tmp_path, CAPTIONS)


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
    facts = checkpoint.read(out)
    assert facts["recipe"] == "laclip"
    assert facts["recipe_source"].startswith("Fan et al. 2023")
    assert facts["data"]["pairs"]["num_pairs"] == len(CAPTIONS)
    assert facts["data"]["rewrites"]["accepted"] == {"test": len(CAPTIONS)}
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    assert facts["num_parameters"] == sum(p.numel() for p in model.parameters())
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(["a red car"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights(out)[name]), name
    ours = Towers("clipflow-tiny", 0.07).eval()
    ours.clip.load_state_dict(weights(out))
    with torch.no_grad():
        theirs = model.eval().encode_text(tokens, normalize=True)
        torch.testing.assert_close(ours.embed_texts(tokenized(ours, [["a red car"]]))[0], theirs)
    assert preprocess.transforms[0].size == 64
    history = pq.read_table(out / checkpoint.HISTORY).to_pydict()
    assert history["step"] == [2, 4, 6]
    assert all(loss > 0 for loss in history["loss"])
    assert pq.read_table(out / checkpoint.EXAMPLES).num_rows == 12
    assert len(checkpoint.provenance(out)["mlflow_run_id"]) == 32
    left = [f.name for f in (tmp_path / "scratch").rglob("*") if f.is_file()]
    assert set(left) <= {"made", "lock"}  # all that is left: which checkpoint it became


def test_a_learned_bias_is_in_the_checkpoint(
    tmp_path: Path, data: dict[str, Path], stage_params: Any
) -> None:
    """open_clip and the evaluation read it, and the bias goes along where the next recipe learns one."""
    siglip = weights_after(tmp_path, data, stage_params("pretrain", recipe="siglip"), "siglip")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{siglip}")
    bias = weights(siglip)["logit_bias"]
    assert torch.equal(model.logit_bias, bias)
    assert 0 < abs(bias + 10) < 0.1
    tokens = open_clip.get_tokenizer(f"local-dir:{siglip}")(["a red car"])
    with torch.no_grad():
        expected = model.eval().encode_text(tokens, normalize=True)
    torch.testing.assert_close(
        pretrained.load(str(siglip), batch_size=8).texts(["a red car"]), expected
    )

    on = {"initial_weights": str(siglip)}
    assert torch.equal(stage.build(stage_params("pretrain", recipe="siglip", **on)).bias, bias)
    clip = stage.build(stage_params("pretrain", recipe="clip", **on)).clip
    assert clip.logit_bias is None
    assert torch.equal(clip.logit_scale, weights(siglip)["logit_scale"])
    without = weights_after(tmp_path, data, stage_params("pretrain", recipe="clip"), "clip")
    on = {"initial_weights": str(without)}
    assert stage.build(stage_params("pretrain", recipe="siglip", **on)).bias.item() == -10.0


def test_same_seed_same_weights(tmp_path: Path, data: dict[str, Path], stage_params: Any) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stage.run(stage_params("pretrain", seed=seed), **data, checkpoint=tmp_path / name)
    assert equal(tmp_path / "a", tmp_path / "b")
    assert not equal(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("recipe", CATALOGUE.names())
def test_interrupted_anywhere_it_ends_the_same(
    tmp_path: Path,
    data: dict[str, Path],
    stage_params: Any,
    recipe: str,
) -> None:
    """An exception after step 3, the last state being of step 2: the weights come out bit-identical."""
    params = stage_params("pretrain", recipe=recipe, architecture=architecture(recipe))
    stage.run(params, **data, checkpoint=tmp_path / "straight")
    with power_cut(after=3):
        stage.run(params, **data, checkpoint=tmp_path / "resumed")
    assert not (tmp_path / "resumed").exists()
    stage.run(params, **data, checkpoint=tmp_path / "resumed")
    assert equal(tmp_path / "straight", tmp_path / "resumed")
    straight, resumed = (
        pq.read_table(tmp_path / name / checkpoint.HISTORY).to_pydict()
        for name in ("straight", "resumed")
    )
    assert straight["loss"] == resumed["loss"]


def test_signals_save_and_the_run_goes_on(
    tmp_path: Path, data: dict[str, Path], values: dict[str, Any]
) -> None:
    """SIGTERM to accelerate's launcher, then on from there and Ctrl-C; kill -9 is tests/e2e's drill."""
    values["pretrain"] |= {"steps": 4000, "warmup_steps": 5, "checkpoint_every": 3, "log_every": 1}
    file = tmp_path / "long.yaml"
    with file.open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    flags = [f"--{name}={path}" for name, path in data.items()]
    command = ["-m", "clipflow", "pretrain", *flags,
               "--checkpoint", str(tmp_path / "c"), "--params", str(file)]  # fmt: skip
    launcher = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip

    def newest() -> int:
        states = (tmp_path / "scratch").glob("*/step-*.pt")
        return max((int(file.name[5:13]) for file in states), default=0)

    def stopped_by(number: signal.Signals, command: list[str]) -> tuple[int, str]:
        before, deadline = newest(), time.monotonic() + 120
        command = [sys.executable, *command]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            try:
                while newest() == before:
                    assert run.poll() is None, "ended on its own"
                    assert time.monotonic() < deadline, "no state was saved"
                    time.sleep(0.1)
                run.send_signal(number)
                _, errors = run.communicate(timeout=60)
            finally:
                run.kill()
        return run.returncode, errors

    _, errors = stopped_by(signal.SIGTERM, [*launcher, *command])
    stopped_at = newest()
    assert f"stopped after step {stopped_at}; run it again to go on" in errors
    status, errors = stopped_by(signal.SIGINT, command)
    assert status == 130
    assert f"resuming after step {stopped_at}" in errors
    assert f"stopped after step {newest()}; run it again to go on" in errors
    assert not (tmp_path / "c").exists()


def test_refusals(
    tmp_path: Path, data: dict[str, Path], stage_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, out = stage_params("pretrain"), tmp_path / "c"
    with pytest.raises(
        ArtifactError, match=r"expected clipflow.pairs/1, found clipflow.rewrites/2"
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


def weights_after(tmp_path: Path, data: dict[str, Path], params: Any, name: str) -> Path:
    AcceleratorState._reset_state()  # one process, several precisions
    stage.run(params, **data, checkpoint=tmp_path / name)
    return tmp_path / name


def test_not_finite_steps_are_skipped_and_named(
    tmp_path: Path,
    data: dict[str, Path],
    stage_params: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Steps 3 and 4 are skipped; a fresh look at the history finds the rest finite."""
    logging.getLogger("clipflow").propagate = True
    forward, calls = Contrastive.forward, iter(range(1, 100))

    def fail(self: Contrastive, batch: Batch) -> dict[str, torch.Tensor]:
        losses = forward(self, batch)
        factor = float("nan") if next(calls) in (3, 4) else 1.0
        return {**losses, "loss": losses["loss"] * factor}

    monkeypatch.setattr(Contrastive, "forward", fail)
    params = stage_params("pretrain", max_skipped_steps=2)
    out = weights_after(tmp_path, data, params, "skipped")
    history = pq.read_table(out / checkpoint.HISTORY).to_pydict()
    assert history["skipped_steps"] == [0, 2, 0]
    assert all(value.isfinite().all() for value in weights(out).values())
    messages = [r.getMessage() for r in caplog.records if " skipped: " in r.getMessage()]
    assert len(messages) == 2
    assert re.match(
        r"step 3 skipped: loss nan, gradient norm nan; its 16 samples begin with k\d\d, k",
        messages[0],
    )

    calls = iter([3] * 100)
    with pytest.raises(ClipflowError, match="step 3: 3 steps in a row had a loss or gradient"):
        stage.run(
            stage_params("pretrain", max_skipped_steps=2, seed=1), **data, checkpoint=tmp_path / "n"
        )
    assert not (tmp_path / "n").exists()


def test_a_damaged_image_is_replaced_and_reported(
    tmp_path: Path, data: dict[str, Path], stage_params: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("clipflow").propagate = True
    (index,) = (t for t in Pairs(data["pairs"]).indexes() if "k07" in t["key"].to_pylist())
    row = index["key"].to_pylist().index("k07")
    with (data["pairs"] / "00000.tar").open("r+b") as tar:
        tar.seek(index["offset"][row].as_py())
        tar.write(bytes(200))
    stage.run(stage_params("pretrain"), **data, checkpoint=tmp_path / "c")
    assert "image of 'k07' can't be read: another takes its place" in caplog.text


def test_initial_weights_and_locked_towers(
    tmp_path: Path, data: dict[str, Path], stage_params: Any
) -> None:
    """LiT: the image tower stays that of the first checkpoint, the text tower learns on."""
    first = weights_after(tmp_path, data, stage_params("pretrain", steps=2), "first")
    changes = {"initial_weights": str(first), "locked": ["image"], "seed": 1, "steps": 2}
    second = weights_after(tmp_path, data, stage_params("pretrain", **changes), "second")
    before, after = weights(first), weights(second)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"text", "logit_scale"}
    with pytest.raises(ArtifactError, match=r"is a clipflow-tiny, expected a ViT-S-32-alt"):
        stage.build(
            stage_params("pretrain", architecture="ViT-S-32-alt", initial_weights=str(first))
        )


def test_the_average_is_what_the_checkpoint_holds(
    tmp_path: Path, data: dict[str, Path], stage_params: Any
) -> None:
    """With a decay so near 1 that nothing moves, it holds the initial weights."""
    params = stage_params("pretrain", ema_decay=1 - 1e-12)
    held = weights(weights_after(tmp_path, data, params, "c"))
    torch.manual_seed(0)
    set_seed(params.seed)
    for name, value in stage.build(params).clip.state_dict().items():
        torch.testing.assert_close(held[name], value, msg=name)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({"chunk_size": 8}, 1e-5), ({"clip_grad_norm": 1e9}, 1e-5), ({"precision": "bfloat16"}, 0.05)],
    ids=str,
)
def test_what_changes_nothing_in_the_mathematics(
    tmp_path: Path,
    data: dict[str, Path],
    stage_params: Any,
    changes: dict[str, Any],
    tolerance: float,
) -> None:
    plain = weights_after(tmp_path, data, stage_params("pretrain", steps=2), "plain")
    other = weights_after(tmp_path, data, stage_params("pretrain", steps=2, **changes), "other")
    losses = [pq.read_table(c / checkpoint.HISTORY)["loss"].to_pylist() for c in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], abs=tolerance)


def test_what_is_logged(tmp_path: Path, data: dict[str, Path], stage_params: Any) -> None:
    out = weights_after(tmp_path, data, stage_params("pretrain"), "c")
    row = pq.read_table(out / checkpoint.HISTORY).to_pylist()[0]
    assert set(row) == {"step", "loss", "logit_scale", "grad_norm", "lr", "samples_per_second",
                        "data_wait_share", "tokens_per_text", "skipped_steps",
                        "damaged_samples"}  # fmt: skip
    assert 5 < row["tokens_per_text"] < 9
    assert row["grad_norm"] > 0
