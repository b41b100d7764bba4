"""Versions in a real registry, made by the register stage of tiny checkpoints and chosen metrics."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clipflow.register.stage import run
from unit.register.conftest import make_checkpoint, make_report  # noqa: F401
from unit.register.test_stage import PARAMS


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def register(
    make_checkpoint: Callable[..., Path],  # noqa: F811
    make_report: Callable[..., Path],  # noqa: F811
) -> Callable[..., None]:
    """Register the checkpoint of a seed with a mean; the same seed again is the same version."""

    def register(seed: int, mean: float = 0.5, run_id: str = "none") -> None:
        checkpoint, report = Path(f"checkpoint{seed}"), Path(f"report{seed}")
        if not checkpoint.exists():
            make_checkpoint(seed, run_id)
        if not report.exists():
            make_report(report.name, mean=mean)
        run(PARAMS, checkpoint=checkpoint, report=report, registration=Path(f"registration{seed}"))

    return register
