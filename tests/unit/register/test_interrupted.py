"""Registering is interrupted anywhere and done again: one version, one model, each metric once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipflow import track
from clipflow.artifacts import registration as registrations
from clipflow.register.stage import run
from unit.register.test_stage import PARAMS

CALLS = [
    "create_registered_model",
    "create_logged_model",
    "log_model_artifacts",
    "log_outputs",
    "log_batch",
    "finalize_logged_model",
    "create_model_version",
    "set_registered_model_alias",
    "log_model_artifact",
    "update_model_version",
]


class Killed(BaseException):
    """No code of ours goes on after it."""


@pytest.mark.parametrize("call", CALLS)
def test_once_in_the_end(
    call: str,
    make_checkpoint: Callable[..., Path],
    make_report: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with track.start("laclip", params={}, tags={}, datasets={}) as trained:
        pass
    client = track.client()
    inputs = {
        "checkpoint": make_checkpoint(0, trained.id),
        "report": make_report("report", mean=0.5),
        "registration": tmp_path / "registration",
    }
    original = getattr(client, call)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(client, call, deadly)
        with pytest.raises(Killed):
            run(PARAMS, **inputs)
    run(PARAMS, **inputs)

    (version,) = client.search_model_versions("name = 'scenes'")
    assert track.aliases(version) == registrations.read(inputs["registration"])["aliases"]
    assert track.aliases(version) == ["challenger", "champion"]
    found = client.get_run(trained.id)
    (model,) = client.search_logged_models([found.info.experiment_id])
    assert str(model.status) == "READY"
    assert [output.model_id for output in found.outputs.model_outputs] == [model.model_id]
    history = client.get_metric_history(trained.id, "zero_shot/mean/top1")
    assert [point.value for point in history] == [0.5]
