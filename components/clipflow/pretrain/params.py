"""Parameters of the pretrain stage: `pretrain:` in params.yaml, with the selected entry of `recipes:`."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from clipflow.catalogue import Section
from clipflow.recipes import Phase, Recipe, TextPolicy, shown


class Params(Section):
    """What to train, on how many samples, with which optimisation."""

    recipe: SerializeAsAny[Recipe]
    """Which entry of `recipes:` to train by."""
    texts: TextPolicy | None
    """What a pair shows in a step: `caption`; `drawn`, one of caption and rewrites, drawn anew; a number K,
    the caption and its first K - 1 rewrites; `sentences-K`, the caption and K - 1 sentences drawn from its
    rewrites. null: the recipe's own, else the caption."""
    architecture: str
    """Any open_clip architecture (`ViT-B-16`, ...) or one of `clipflow/model/architectures`."""
    initial_weights: str | None
    """Folder of a checkpoint of the same architecture to start from; null starts from random weights."""
    locked: list[Literal["image", "text"]]
    """Towers that are not trained. `[image]` is LiT's contrastive tuning (Zhai et al. 2022)."""
    patch_dropout: float = Field(ge=0, lt=1)
    """Share of image patches that every training step leaves out; recipes with phases have their own."""
    batch_size: int = Field(ge=2)
    """Global batch size over all devices: it sets the number of negatives."""
    chunk_size: int | None = Field(ge=1)
    """Samples that a device's towers take at once, by gradient caching (Gao et al. 2021): less memory for
    a third more time, the same negatives and gradients. null: a device's whole share of the batch."""
    steps: int = Field(ge=1)
    """Optimizer steps, those of all phases together."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear warm-up from 1e-6 to `lr`, at the beginning of the first phase."""
    schedule: Literal["cosine", "linear", "constant"]
    """How the learning rate goes from `lr` to `lr_min` after warm-up. CLIP and LaCLIP: cosine."""
    lr: float = Field(gt=0)
    """Peak learning rate."""
    lr_min: float = Field(ge=0)
    """Learning rate that the schedule ends at; without effect on `constant`."""
    lr_factors: dict[Literal["image", "text"], Annotated[float, Field(ge=0)]]
    """Factors on the learning rate of a tower, `{image: 0.1}`; towers not named have 1."""
    layer_decay: float = Field(gt=0, le=1)
    """Factor on the learning rate per layer below a tower's projection; 1: none. EVA-CLIP: 0.75 to 0.9."""
    weight_decay: float = Field(ge=0)
    """AdamW decay of matrices; vectors, scalars and norms are never decayed."""
    beta1: float = Field(ge=0, lt=1)
    """AdamW's decay of the gradient's mean. CLIP: 0.9."""
    beta2: float = Field(ge=0, lt=1)
    """AdamW's decay of the gradient's square. CLIP's ViTs: 0.98; CLIPA: 0.95."""
    eps: float = Field(gt=0)
    """AdamW's term in the denominator. CLIP's ViTs: 1e-6; LaCLIP: 1e-8."""
    clip_grad_norm: float | None = Field(gt=0)
    """Largest L2 norm of all gradients together; null does not clip. open_clip's large runs: 1.0."""
    ema_decay: float | None = Field(gt=0, lt=1)
    """Decay per step of a moving average of the weights, which then is what the checkpoint holds; null
    keeps the last weights."""
    crop_scale_min: float = Field(gt=0, le=1)
    """Smallest share of the image's area that a random resized crop keeps. LaCLIP uses 0.5."""
    precision: Literal["auto", "float32", "bfloat16"]
    """Autocast type; `auto` is bfloat16 on GPUs that have it and float32 elsewhere. On CPUs with
    AVX512-BF16 or AMX bfloat16 is about twice as fast."""
    sharded: bool
    """Split weights, gradients and moments over the processes (FSDP2) instead of repeating them (DDP)."""
    compile: bool
    """torch.compile of the towers' blocks: pays on GPUs and long runs, needs a C++ compiler on CPUs."""
    seed: int = Field(ge=0)
    """Seed of initial weights, sample order, crops and caption draws."""
    max_skipped_steps: int = Field(ge=0)
    """A step whose loss or gradient is not finite is skipped; more than so many in a row end the run."""
    log_every: int = Field(ge=1)
    """Steps between logged metrics."""
    checkpoint_every: int = Field(ge=1)
    """Steps between resumable states in scratch."""
    checkpoint_minutes: float = Field(gt=0)
    """Minutes after which a state is saved even if the steps are not done."""
    checkpoint_keep: int = Field(ge=1)
    """Newest states to keep; an older one serves when the newest is damaged."""

    @field_validator("texts")
    @classmethod
    def _fit_the_recipe(cls, texts: TextPolicy | None, info: ValidationInfo) -> TextPolicy | None:
        recipe = info.data.get("recipe")
        if texts is not None and recipe and recipe.own_texts not in (None, texts):
            raise ValueError(
                f"expected null, since recipe '{recipe.name}' shows {recipe.own_texts!r} by definition; set"
                " null, or choose a recipe that takes any texts, such as clip"
            )
        return texts

    @field_validator("patch_dropout")
    @classmethod
    def _fit_the_phases(cls, patch_dropout: float, info: ValidationInfo) -> float:
        recipe = info.data.get("recipe")
        if patch_dropout and recipe:
            whole = Phase(steps=2, warmup_steps=0, patch_dropout=patch_dropout)
            if any(phase.patch_dropout != patch_dropout for phase in recipe.phases(whole)):
                raise ValueError(
                    f"expected 0.0, since recipe '{recipe.name}' says itself which patches its phases leave"
                    f" out; set 0.0 and change 'recipes.{recipe.name}'"
                )
        return patch_dropout

    @property
    def phases(self) -> list[Phase]:
        """Training in its order."""
        return self.recipe.phases(
            Phase(self.steps, self.warmup_steps, patch_dropout=self.patch_dropout)
        )

    def texts_of(self, caption: str, rewrites: list[str], rng: random.Random) -> list[str]:
        """The texts that a pair shows in a step, by `texts` or the recipe."""
        return shown(self.texts or self.recipe.own_texts or "caption", caption, rewrites, rng)
