"""What the whole suite shares: the real params.yaml made tiny, and a place of its own per test."""

from __future__ import annotations

import copy
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clipflow import params, track
from fakes.artifacts import ROOT

TINY = {
    "sources": {"scenes": {"num_pairs": 64, "num_train": 24, "num_test": 24, "size_px": 32}},
    "ingest": {"samples_per_shard": 40},
    "rewrite": {"num_rewrites": 2},
    "pretrain": {"architecture": "clipflow-tiny", "batch_size": 16, "steps": 6, "warmup_steps": 2,
                 "log_every": 2, "checkpoint_every": 2},
    "recipes": {"laclip_mt": {"num_texts": 3}, "slip": {"head_hidden": 32}, "laslip": {"head_hidden": 32},
                "fdt": {"num_codes": 64}, "dreamlip": {"num_texts": 3},
                "protoclip": {"episode_pairs": 32, "num_prototypes": 4, "head_hidden": 32}},
}  # fmt: skip

# Begun in a shell's background, which ignores Ctrl-C, tests and their children would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; making one takes seconds, so it is made once."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        track.connect()
    return database


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> None:
    """Each test has its own scratch, cache and MLflow database, and no loader processes."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("CLIPFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("CLIPFLOW_WORKERS", "0")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture
def values() -> dict[str, Any]:
    """The contents of the real params.yaml, made tiny; a renamed key breaks here."""
    plain = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    for section, entries in TINY.items():
        for key, value in entries.items():
            assert key in plain[section], f"params.yaml has no {section}.{key}"
            if isinstance(value, dict):
                assert set(value) <= set(plain[section][key])
                plain[section][key] = {**plain[section][key], **value}
            else:
                plain[section][key] = value
    return plain


@pytest.fixture
def stage_params(values: dict[str, Any]) -> Any:
    """`stage_params("pretrain", recipe="clip")`: a stage's tiny params with some values replaced."""

    def build(stage: str, **changes: Any) -> Any:
        changed = copy.deepcopy(values)
        changed[stage].update(changes)
        return params.parse(params.select(changed, stage), stage)

    return build


@pytest.fixture
def params_file(values: dict[str, Any], tmp_path: Path) -> Path:
    """The tiny params as a file."""
    path = tmp_path / "params.yaml"
    with path.open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    return path
