"""One process's bad loss skips the step in all of them, and ends all of them at the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipflow.artifacts import checkpoint
from fakes.launch import Launch, make_inputs


@pytest.mark.parametrize("num_spoiled", [2, 3])
def test_processes_skip_and_stop_together(
    tmp_path: Path, values: dict[str, Any], num_spoiled: int
) -> None:
    values["pretrain"] |= {
        "steps": 8,
        "log_every": 8,
        "checkpoint_every": 100,
        "max_skipped_steps": 2,
    }
    spoiled = range(3, 3 + num_spoiled)
    out = tmp_path / "c"
    launch = Launch(2, values, make_inputs(tmp_path), out, tmp_path / "scratch2", spoiled)
    statuses, errors = launch.wait()
    if num_spoiled == 3:
        assert statuses == [2, 2], errors
        assert "step 5: 3 steps in a row had a loss or gradient that is not finite" in errors
        assert not out.exists()
    else:
        assert statuses == [0, 0], errors
        (row,) = pq.read_table(out / checkpoint.HISTORY).to_pylist()
        assert row["skipped_steps"] == 2
        assert 0 < row["loss"] < 10
        assert "step 3 skipped: loss nan" in errors
        assert "step 4 skipped: loss nan" in errors
