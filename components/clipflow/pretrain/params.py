"""Parameters of the pretrain stage: `pretrain:` in params.yaml, with the selected entry of `recipes:`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SerializeAsAny

from clipflow.catalogue import Section
from clipflow.recipes import Recipe


class Params(Section):
    """What to train, on how many samples, with which optimisation."""

    recipe: SerializeAsAny[Recipe]
    """Which entry of `recipes:` to train by."""
    architecture: str
    """Any open_clip architecture (`ViT-B-16`, ...) or one of `clipflow/model/architectures`."""
    batch_size: int = Field(ge=2)
    """Global batch size over all devices: it sets the number of negatives."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear warm-up from 1e-6 to `lr`."""
    lr: float = Field(gt=0)
    """Peak learning rate; cosine decay to `lr_min` after warm-up."""
    lr_min: float = Field(ge=0)
    """Learning rate of the last step."""
    weight_decay: float = Field(ge=0)
    """AdamW decay of matrices; vectors, scalars and norms are never decayed."""
    crop_scale_min: float = Field(gt=0, le=1)
    """Smallest share of the image's area that a random resized crop keeps. LaCLIP uses 0.5."""
    precision: Literal["auto", "float32", "bfloat16"]
    """Autocast type; `auto` is bfloat16 on GPUs that have it and float32 elsewhere."""
    seed: int = Field(ge=0)
    """Seed of initial weights, sample order, crops and caption draws."""
    log_every: int = Field(ge=1)
    """Steps between logged metrics."""
    checkpoint_every: int = Field(ge=1)
    """Steps between resumable states in scratch."""
