"""Saved states: verified, several, and of this run alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clipflow.errors import ClipflowError
from clipflow.pretrain import resume
from clipflow.pretrain.resume import Due, Scratch, State
from fakes.artifacts import make_pairs


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return {name: make_pairs(tmp_path / name, {name: "caption"}) for name in ("pairs", "rewrites")}


@pytest.fixture
def scratch(stage_params: Any, inputs: dict[str, Path]) -> Any:
    with Scratch(stage_params("pretrain", checkpoint_keep=2), {}, inputs).locked(True) as found:
        yield found


def part(value: float) -> nn.Linear:
    linear = nn.Linear(2, 2)
    nn.init.constant_(linear.weight, value)
    return linear


def save(scratch: Scratch, *steps: int) -> None:
    for step in steps:
        scratch.save(
            State(step=step, mlflow_run_id="run", history=[{"loss": step}]), {"model": part(step)}
        )


def test_the_newest_is_put_back(scratch: Scratch) -> None:
    save(scratch, 1, 2, 30)
    model = part(0)
    state = scratch.restore({"model": model})
    assert state == State(step=30, mlflow_run_id="run", history=[{"loss": 30}])
    assert (model.weight == 30).all()


def test_only_so_many_are_kept(scratch: Scratch) -> None:
    save(scratch, 1, 2, 30)
    names = sorted(f.name for f in scratch.folder.glob("step-*"))
    assert names == [
        "step-00000002.json",
        "step-00000002.pt",
        "step-00000030.json",
        "step-00000030.pt",
    ]


def test_nothing_saved_is_a_state_of_no_steps(scratch: Scratch) -> None:
    assert scratch.restore({"model": part(0)}) == State()


def flip(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


DAMAGE = {
    "flipped": flip,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-10]),
    "empty": lambda file: file.write_bytes(b""),
    "unverifiable": lambda file: file.with_suffix(".json").unlink(),
    "wrong sum": lambda file: file.with_suffix(".json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_passed_over(
    scratch: Scratch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    logging.getLogger("clipflow").propagate = True
    save(scratch, 1, 2)
    DAMAGE[damage](scratch.folder / "step-00000002.pt")
    model = part(0)
    assert scratch.restore({"model": model}).step == 1
    assert (model.weight == 1).all()
    assert "step-00000002.pt: damaged, passed over" in caplog.text


def test_all_damaged_is_an_error(scratch: Scratch) -> None:
    save(scratch, 1, 2)
    for file in scratch.folder.glob("*.pt"):
        flip(file)
    with pytest.raises(ClipflowError, match="none of its 2 states is intact; delete the folder"):
        scratch.restore({"model": part(0)})


@pytest.mark.parametrize("moment", ["fsync", "write_json", "replace"])
def test_a_crash_while_saving_leaves_the_one_before(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save(scratch, 1)

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    place = {"fsync": resume.os, "write_json": resume.manifest, "replace": Path}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(place, moment, crash)
        with pytest.raises(KeyboardInterrupt):
            save(scratch, 2)
    assert scratch.restore({"model": part(0)}).step == 1
    save(scratch, 2)
    assert scratch.restore({"model": part(0)}).step == 2


def test_an_optimiser_goes_on_bit_by_bit(scratch: Scratch) -> None:
    """Fused AdamW restored after two of four steps ends where the uninterrupted one does."""

    def steps(model: nn.Linear, optimiser: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            model(torch.full((1, 2), float(step))).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    def fresh() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        return model, torch.optim.AdamW(model.parameters(), fused=True)

    straight, optimiser = fresh()
    steps(straight, optimiser, 0, 4)
    stopped, optimiser = fresh()
    steps(stopped, optimiser, 0, 2)
    scratch.save(State(step=2), {"model": stopped, "optimiser": optimiser})
    resumed, optimiser = part(7), None
    optimiser = torch.optim.AdamW(resumed.parameters(), fused=True)
    scratch.restore({"model": resumed, "optimiser": optimiser})
    steps(resumed, optimiser, 2, 4)
    assert torch.equal(resumed.weight, straight.weight)


def test_when_a_state_is_due(stage_params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)
    due = Due(stage_params("pretrain", checkpoint_every=10, checkpoint_minutes=2.0))
    assert [step for step in range(1, 25) if due(step)] == [10, 20]
    now += 119
    assert not due(21)
    now += 1
    assert due(21)
    due.saved()
    assert not due(22)


def test_other_params_data_or_models_are_other_runs(
    inputs: dict[str, Path], stage_params: Any
) -> None:
    folders = [
        Scratch(stage_params("pretrain"), {}, inputs).folder,
        Scratch(stage_params("pretrain", seed=1), {}, inputs).folder,
        Scratch(stage_params("pretrain", recipe="clip"), {}, inputs).folder,
        Scratch(stage_params("pretrain"), {"width": 64}, inputs).folder,
        Scratch(stage_params("pretrain"), {}, {"pairs": inputs["pairs"]}).folder,
    ]
    assert len(set(folders)) == 5
    later = stage_params("pretrain", checkpoint_every=1, checkpoint_minutes=1.0, checkpoint_keep=9)
    assert Scratch(later, {}, inputs).folder == folders[0]


def test_a_run_going_on_keeps_others_off(scratch: Scratch) -> None:
    with (
        pytest.raises(ClipflowError, match="still going on in another process"),
        scratch.locked(True),
    ):
        pass
