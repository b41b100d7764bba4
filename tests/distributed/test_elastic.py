"""A run saved on some processes goes on with another number: same batches, same losses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipflow import params as params_file
from clipflow.artifacts import checkpoint
from clipflow.pretrain import stage
from fakes.launch import Launch, make_inputs

STEPS = 36


def losses(folder: Path) -> list[float]:
    table = pq.read_table(folder / checkpoint.HISTORY)
    assert table["step"].to_pylist() == list(range(1, STEPS + 1))
    return [float(loss) for loss in table["loss"].to_pylist()]


@pytest.mark.parametrize(("before", "sharded", "after"), [(1, False, 2), (2, True, 1)])
def test_another_number_of_processes_goes_on(
    tmp_path: Path, values: dict[str, Any], before: int, sharded: bool, after: int
) -> None:
    """From one to two, and from two that share the weights to one, which has them all."""
    values["pretrain"] |= {"steps": STEPS, "log_every": 1, "checkpoint_every": 6, "ema_decay": 0.9}
    inputs, scratch = make_inputs(tmp_path), tmp_path / "scratch-elastic"
    params = params_file.parse(params_file.select(values, "pretrain"), "pretrain")
    stage.run(params, **inputs, checkpoint=tmp_path / "straight")

    values["pretrain"]["sharded"] = sharded
    first = Launch(before, values, inputs, tmp_path / "elastic", scratch)
    while all("-00000000-" in file.name for file in scratch.glob("*/step-*.pt")):
        assert first.is_alive(), first.wait()
        time.sleep(0.02)
    first.stop()
    statuses, errors = first.wait()
    assert statuses == [143] * before, errors
    assert ("sharded" in errors) is sharded
    assert not (tmp_path / "elastic").exists()

    values["pretrain"]["sharded"] = False
    statuses, errors = Launch(after, values, inputs, tmp_path / "elastic", scratch).wait()
    assert statuses == [0] * after, errors
    assert "resuming after step" in errors
    assert f"on {after} x cpu" in errors
    assert losses(tmp_path / "elastic") == pytest.approx(losses(tmp_path / "straight"), abs=2e-4)
