"""What a phase's budget of tokens means for given towers."""

from __future__ import annotations

from clipflow.errors import ParamsError
from clipflow.model import token_embeddings
from clipflow.model.towers import Towers
from clipflow.pretrain.params import Params
from clipflow.recipes import Phase, at


def check(params: Params, towers: Towers) -> None:
    """Raise ParamsError if the towers can't take what the phases show them."""
    for phase in params.phases:
        if phase.patch_dropout and towers.patch_size_px is None:
            raise ParamsError(
                f"pretrain.architecture: {phase.patch_dropout:g} of the image patches are to be left out,"
                f" and '{towers.architecture}' has none; choose a ViT, such as ViT-B-16, or leave out none"
            )
        if phase.image_side < 1 or phase.text_tokens is not None:
            token_embeddings.check(towers, params.recipe.name)


def number(params: Params, step: int) -> dict[str, float]:
    """Where a step is, as a metric: the number of its phase, if there are several."""
    phases = params.phases
    return {"phase": float(at(phases, step)[0])} if len(phases) > 1 else {}


def side_px(phase: Phase, size_px: int, patch_size_px: int | None) -> int:
    """Side of the phase's images: the nearest whole number of patches, and one at least."""
    if phase.image_side == 1:
        return size_px
    patch = patch_size_px or 1
    return min(size_px, patch * max(1, round(phase.image_side * size_px / patch)))


def num_patches(phase: Phase, size_px: int, patch_size_px: int) -> tuple[int, int]:
    """Patches of an image of the phase, and how many of them are kept: one at least."""
    there = (side_px(phase, size_px, patch_size_px) // patch_size_px) ** 2
    return there, max(1, round(there * (1 - phase.patch_dropout)))


def describe(phase: Phase, towers: Towers) -> str:
    """The phase in words: its steps, and what the towers see."""
    size, patch = towers.image_size_px, towers.patch_size_px
    side = side_px(phase, size, patch)
    image = f"images of {side} px"
    if patch:
        there, kept = num_patches(phase, size, patch)
        image += f", {kept} of {there} patches"
    length = phase.text_tokens or towers.tokenizer.context_length
    how = f" ({phase.shortening})" if phase.text_tokens else ""
    return (
        f"{phase.steps} step{'s' * (phase.steps != 1)}, learning rate x {phase.lr_factor:g}, {image},"
        f" at most {length} tokens a text{how}"
    )
