"""kill -9, from inside at a chosen place or from outside at any time."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipflow import log

ANY_TIME = "any time"


def die() -> None:
    """What kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Place:
    """A function to be killed in, before or after what it does."""

    owner: Any
    name: str
    when: Literal["before", "after"] = "before"
    passes: int = 1
    """A kill comes at a random one of so many passes."""
    only: Callable[..., bool] = lambda *_: True
    """Which calls are passes, by their arguments."""

    def arm(self, at: int) -> None:
        """From now on the `at`-th pass is the last."""
        original, passed = getattr(self.owner, self.name), 0

        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            passed += self.only(*args)
            if passed == at and self.when == "before":
                die()
            result = original(*args, **kwargs)
            if passed == at:
                die()
            return result

        setattr(self.owner, self.name, deadly)


def forked(
    stage: str, run: Callable[[], None], log_file: Path, kill_after_s: float | None = None
) -> int:
    """The exit status of a child that runs this: negative if it was killed.

    With `kill_after_s` it is killed after so many seconds, unless it is done before.
    """
    child = os.fork()
    if not child:
        with log_file.open("a") as stream:
            os.dup2(stream.fileno(), sys.stderr.fileno())
        log.setup(stage)
        try:
            run()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)  # a child that is done waits for us
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
