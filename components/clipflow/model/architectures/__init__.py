"""Architectures by name: open_clip's, and ours, which lie here in its format: a file is one more."""

from __future__ import annotations

from pathlib import Path

import open_clip

open_clip.add_model_config(Path(__file__).parent)


def names() -> list[str]:
    """Of all that can be built."""
    return list(open_clip.list_models())
