"""A random checkpoint as pretrain writes it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from clipflow.artifacts import checkpoint, manifest
from clipflow.model.towers import Towers


def make_weights(folder: Path, seed: int = 0, architecture: str = "clipflow-tiny") -> Path:
    """Weights and configuration, which is all that open_clip reads."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    towers = Towers(architecture, 0.07)
    save_file(towers.clip.state_dict(), folder / checkpoint.WEIGHTS)
    manifest.write_json(folder / checkpoint.CONFIG, towers.config)
    return folder
