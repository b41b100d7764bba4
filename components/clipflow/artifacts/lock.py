"""One process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipflow.errors import ClipflowError


@contextmanager
def held(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes off a folder by a lock file in it, which the end of this one lets go.

    If another holds it, wait for that one's end, or raise ClipflowError.
    """
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ClipflowError(
                f"{file.parent}: the same run is still going on in another process; "
                "wait for it, or stop it and run this again"
            ) from None
        yield
