"""Pairs and benchmarks are of one run, whenever it is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipflow.ingest import stage
from fakes.artifacts import jpeg


@pytest.mark.parametrize("renames", range(4))
def test_killed_at_any_rename_pairs_and_benchmarks_are_of_one_run(
    tmp_path: Path, stage_params: Any, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    (tmp_path / "d/cat").mkdir(parents=True)
    (tmp_path / "d/cat/1.jpg").write_bytes(jpeg())
    params = stage_params("ingest", source="folder", data=str(tmp_path / "d"))
    outs = {"pairs": tmp_path / "pairs", "benchmarks": tmp_path / "benchmarks"}
    stage.run(params, **outs)
    for out in outs.values():
        (out / "old").touch()

    done, rename = [], Path.rename

    def killed(source: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(source)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.run(params, **outs)
    assert len({(out / "old").exists() for out in outs.values() if out.exists()}) <= 1
