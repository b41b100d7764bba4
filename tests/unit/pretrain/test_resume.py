"""Saved states: verified, several, and of this run alone."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clipflow.errors import ClipflowError
from clipflow.pretrain import resume
from clipflow.pretrain.average import Average
from clipflow.pretrain.resume import Due, Parts, Scratch, State
from fakes.artifacts import make_pairs


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return {name: make_pairs(tmp_path / name, {name: "caption"}) for name in ("pairs", "rewrites")}


@pytest.fixture
def scratch(stage_params: Any, inputs: dict[str, Path]) -> Any:
    with Scratch(stage_params("pretrain", checkpoint_keep=2), {}, inputs).locked(True) as found:
        yield found


def parts(value: float = 0.0) -> Parts:
    """A model of that weight, and an optimizer that has taken a step of no length."""
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    return {"model": model, "optimiser": optimiser}


def save(scratch: Scratch, *steps: int) -> None:
    for step in steps:
        state = State(step=step, mlflow_run_id="run", history=[{"loss": step}])
        scratch.save(state, parts(step))


def restored(scratch: Scratch) -> int:
    """The step of the state that is put back, whose weights must be of the same step."""
    into = parts()
    state = scratch.restore(into)
    assert (into["model"].weight == state.step).all()
    return state.step


def states(scratch: Scratch) -> list[int]:
    return sorted(int(file.name[5:13]) for file in scratch.folder.glob("step-*"))


def state_of(scratch: Scratch, step: int) -> Path:
    (file,) = scratch.folder.glob(f"step-{step:08d}-*.pt")
    return file


def test_the_newest_is_put_back(scratch: Scratch) -> None:
    save(scratch, 1, 2, 30)
    into = parts()
    state = scratch.restore(into)
    assert state == State(step=30, mlflow_run_id="run", history=[{"loss": 30}])
    assert (into["model"].weight == 30).all()


def test_only_so_many_are_kept(scratch: Scratch) -> None:
    save(scratch, 1, 2, 30)
    assert states(scratch) == [2, 30]


def test_nothing_saved_is_a_state_of_no_steps(scratch: Scratch) -> None:
    assert scratch.restore(parts()) == State()


def test_before_the_first_step_only_the_run_is_remembered(scratch: Scratch) -> None:
    """Weights are what the seed makes them, and an optimizer without moments is left without."""
    into = parts(5.0)
    into["optimiser"] = torch.optim.AdamW(into["model"].parameters())
    scratch.save(State(mlflow_run_id="run"), into)
    assert scratch.restore(into) == State(mlflow_run_id="run")
    assert (into["model"].weight == 5).all()
    assert not into["optimiser"].state


def flip(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


DAMAGE = {
    "flipped": flip,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-10]),
    "empty": lambda file: file.write_bytes(b""),
    "without its sum": lambda file: file.rename(file.with_name(f"{file.name[:13]}.pt")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_passed_over(
    scratch: Scratch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    logging.getLogger("clipflow").propagate = True
    save(scratch, 1, 2)
    DAMAGE[damage](state_of(scratch, 2))
    assert restored(scratch) == 1
    assert "step-00000002" in caplog.text
    assert f"damaged, deleted; going on from {state_of(scratch, 1).name}" in caplog.text
    save(scratch, 2)  # the damaged one is not one of those kept
    assert states(scratch) == [1, 2]
    flip(state_of(scratch, 2))
    assert restored(scratch) == 1


def test_all_damaged_is_an_error(scratch: Scratch) -> None:
    save(scratch, 1, 2)
    for step in (1, 2):
        flip(state_of(scratch, step))
    with pytest.raises(ClipflowError, match="none of its 2 states is intact; delete the folder"):
        scratch.restore(parts())
    assert states(scratch) == [1, 2]


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "Path.replace", "Path.unlink"])
def test_a_crash_while_saving_leaves_the_one_before(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save(scratch, 1, 2)
    place, name = moment.split(".")

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vars(resume)[place], name, crash)
        with pytest.raises(KeyboardInterrupt):
            save(scratch, 3)
    assert restored(scratch) == (3 if moment == "Path.unlink" else 2)
    save(scratch, 4)
    assert restored(scratch) == 4
    assert len(states(scratch)) == 2


def test_onto_the_disk_before_into_place(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename finds the contents on the disk, and then the name."""
    order = []
    fsync, replace, unlink = resume.os.fsync, Path.replace, Path.unlink

    def noted_fsync(number: int) -> None:
        order.append(f"sync {Path(f'/proc/self/fd/{number}').readlink().name}")
        fsync(number)

    def noted_replace(self: Path, target: Path) -> Path:
        order.append(f"rename {self.name}")
        return replace(self, target)

    def noted_unlink(self: Path) -> None:
        order.append(f"delete {int(self.name[5:13])}")
        unlink(self)

    save(scratch, 1, 2)
    monkeypatch.setattr(resume.os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(Path, "unlink", noted_unlink)
    save(scratch, 3)
    assert order == ["sync state.partial", "rename state.partial", f"sync {scratch.folder.name}",
                     "delete 1"]  # fmt: skip


def test_it_goes_on_bit_by_bit(scratch: Scratch) -> None:
    """Put back after two of four steps it ends where the uninterrupted run does: weights, moments, average.

    With groups that differ, a parameter that is not trained, and one that no step reaches.
    """

    def fresh() -> tuple[Parts, Average]:
        torch.manual_seed(0)
        model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("used", "locked", "unreached")})
        model["locked"].requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.5, "lr_factor": 1.0},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, "lr_factor": 0.5},
        ]
        average = Average(model, 0.9)
        optimiser = torch.optim.AdamW(groups, betas=(0.8, 0.95), fused=True)
        return {"model": model, "optimiser": optimiser, "average": average}, average

    def steps(parts: Parts, average: Average, first: int, last: int) -> None:
        for step in range(first, last):
            for group in parts["optimiser"].param_groups:
                group["lr"] = group["lr_factor"] / (1 + step)
            hidden = parts["model"]["used"](torch.full((1, 2), float(step)))
            parts["model"]["locked"](hidden).square().sum().backward()
            parts["optimiser"].step()
            parts["optimiser"].zero_grad()
            average.update()

    straight, straight_average = fresh()
    steps(straight, straight_average, 0, 4)
    stopped, stopped_average = fresh()
    steps(stopped, stopped_average, 0, 2)
    scratch.save(State(step=2), stopped)
    resumed, resumed_average = fresh()
    assert scratch.restore(resumed).step == 2
    steps(resumed, resumed_average, 2, 4)

    for one, other in zip(
        straight["model"].parameters(), resumed["model"].parameters(), strict=True
    ):
        assert torch.equal(one, other)
        moments, others = straight["optimiser"].state[one], resumed["optimiser"].state[other]
        assert all(torch.equal(moments[name], others[name]) for name in moments)
    for name, value in straight_average.values.items():
        assert torch.equal(value, resumed_average.values[name])
    assert [
        (group["weight_decay"], group["lr_factor"]) for group in resumed["optimiser"].param_groups
    ] == [(0.5, 1.0), (0.0, 0.5)]


def test_when_a_state_is_due(stage_params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)
    due = Due(stage_params("pretrain", checkpoint_every=10, checkpoint_minutes=2.0))
    assert [step for step in range(1, 25) if due(step)] == [10, 20]
    now += 119
    assert not due(21)
    now += 1
    assert due(21)
    assert not due(22)
    now += 119
    due.saved()
    now += 1
    assert not due(23)
    now += 119
    monkeypatch.setenv("RANK", "1")
    assert not due(24)
    assert due(30)


def test_of_a_complete_run_only_what_it_made_is_known(
    scratch: Scratch, inputs: dict[str, Path], tmp_path: Path
) -> None:
    save(scratch, 1)
    made = inputs["pairs"]  # any artifact will do
    assert not scratch.made(made)
    scratch.clear(made)
    assert {file.name for file in scratch.folder.iterdir()} == {"lock", "made"}
    assert scratch.made(made)
    assert not scratch.made(inputs["rewrites"])
    assert not scratch.made(tmp_path / "absent")


def test_a_kill_while_states_are_deleted_leaves_no_state(
    scratch: Scratch, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(scratch, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scratch.clear(inputs["pairs"])
    assert states(scratch) == [1]
    assert scratch.made(inputs["pairs"])
    assert states(scratch) == []


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


def test_a_launcher_may_say_stop_twice_and_a_person_means_at_once() -> None:
    with resume.stop_on_signals() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
