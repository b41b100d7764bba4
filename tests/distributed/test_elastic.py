"""A run saved on some processes goes on with another number: same batches, same losses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from clipflow import params as params_file
from clipflow.artifacts import checkpoint
from clipflow.pretrain import stage
from fakes.artifacts import make_pairs, make_rewrites

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" + " and more" * (n % 5) for n in range(32)}
STEPS = 30


@pytest.fixture
def launch(tmp_path: Path, values: dict[str, Any]) -> Any:
    """`launch(world, name)`: start a run on so many processes; runs of one name share their states."""
    pairs = make_pairs(tmp_path / "pairs", CAPTIONS)
    texts = make_rewrites(tmp_path / "rewrites", pairs, {k: [f"rewrite of {k}"] for k in CAPTIONS})
    values["pretrain"] |= {"steps": STEPS, "log_every": 1, "checkpoint_every": 4}
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(values, stream)

    def start(world: int, name: str) -> subprocess.Popen[str]:
        env = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1",
                            "CLIPFLOW_SCRATCH": str(tmp_path / f"scratch-{name}")}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={world}", "-m", "clipflow", "pretrain",
             "--pairs", str(pairs), "--rewrites", str(texts), "--checkpoint", str(tmp_path / name),
             "--params", str(tmp_path / "params.yaml")],
            env=env, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


def losses(folder: Path) -> list[float]:
    table = pq.read_table(folder / checkpoint.HISTORY)
    assert table["step"].to_pylist() == list(range(1, STEPS + 1))
    return [float(loss) for loss in table["loss"].to_pylist()]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on(
    tmp_path: Path, launch: Any, before: int, after: int
) -> None:
    params = params_file.load(tmp_path / "params.yaml", "pretrain")
    stage.run(params, pairs=tmp_path / "pairs", rewrites=tmp_path / "rewrites",
              checkpoint=tmp_path / "straight")  # fmt: skip
    first = launch(before, "elastic")
    while not list(tmp_path.glob("scratch-elastic/*/step-*.pt")):
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert not (tmp_path / "elastic").exists()
    second = launch(after, "elastic")
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "resuming after step" in errors
    assert f"on {after} x cpu" in errors
    assert losses(tmp_path / "elastic") == pytest.approx(losses(tmp_path / "straight"), abs=2e-4)
