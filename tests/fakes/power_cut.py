"""A power cut in the middle of training, of which no saved state knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipflow.model.towers import Towers


@contextmanager
def power_cut(after: int) -> Iterator[None]:
    """Training in here ends with an exception in the step that comes after so many."""
    clamp, steps = Towers.clamp_scale, 0

    def fail(self: Towers) -> None:
        nonlocal steps
        steps += 1
        if steps == after + 1:
            raise RuntimeError("power cut")
        clamp(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Towers, "clamp_scale", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            yield
