"""Logging: one line per event, with the stage's name; on ranks other than 0 only warnings."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def is_main_process() -> bool:
    """True on rank 0 and in any single-process run."""
    return int(os.environ.get("RANK", "0")) == 0


def setup(stage: str) -> None:
    """Log INFO to standard error as `stage | message`; other ranks keep to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{stage:<8} | %(message)s"))
    logger = logging.getLogger("clipflow")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)


def counter(*, total: int, what: str, unit: str) -> tqdm[None]:
    """A bar as of `progress` that goes on by its `update`, for work that no iteration counts."""
    nothing: tuple[None, ...] = ()
    return progress(nothing, total=total, what=what, unit=unit)


def progress(items: Iterable[T], *, total: int | None, what: str, unit: str = "it") -> tqdm[T]:
    """A progress bar on standard error; where that is no terminal, a line every 10 s of long work."""
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        desc=what,
        unit=unit,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 10.0,
        disable=not is_main_process(),
        leave=False,
        delay=0.0 if terminal else 10.0,
    )
