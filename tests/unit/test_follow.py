"""Following a run: its changes in order, through an absence of the server, to its end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace as Thing
from typing import Any

import kfp_server_api
import pytest

from clipflow import follow


class Client:
    """Answers in order; an exception among them is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)

    def get_run(self, run_id: str) -> Any:
        answer = next(self.answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def run(state: str, **tasks: str) -> Any:
    details = [Thing(task_id=n, display_name=n, state=s) for n, s in tasks.items()]
    return Thing(state=state, run_details=Thing(task_details=details))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE_S", 0.0)


def test_changes_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    away = kfp_server_api.ApiException(status=503)
    first, last = run("RUNNING", a="RUNNING", b="PENDING"), run("FAILED", a="SUCCEEDED", b="FAILED")
    assert not follow.follow(Client(first, away, first, last), "R")
    assert capsys.readouterr().out.splitlines() == [
        "a: RUNNING (0/2 ended)",
        "b: PENDING (0/2 ended)",
        "a: SUCCEEDED (1/2 ended)",
        "b: FAILED (2/2 ended)",
        "Run is finished with state FAILED.",
    ]


def test_success() -> None:
    assert follow.follow(Client(run("SUCCEEDED")), "R")


def test_refusal_ends_it() -> None:
    with pytest.raises(kfp_server_api.ApiException):
        follow.follow(Client(kfp_server_api.ApiException(status=403)), "R")


def test_interrupt_says_how_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        follow.follow(Client(KeyboardInterrupt()), "R")
    assert "kfp run terminate R" in capsys.readouterr().err
