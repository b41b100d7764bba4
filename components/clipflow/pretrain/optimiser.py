"""AdamW as CLIP and LaCLIP use it, with its schedule, factors per tower and layer, and skipped steps."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from clipflow.model.towers import LAYER, Towers
from clipflow.pretrain.params import Params
from clipflow.pretrain.sharding import own
from clipflow.recipes import at

LR_BEFORE_WARMUP = 1e-6
BELOW_BLOCKS = re.compile(r"embed|conv1|stem|cls_token|ln_pre|norm_pre")


def adamw(model: nn.Module, towers: Towers, params: Params) -> torch.optim.AdamW:
    """AdamW over what is trained; matrices decay, vectors, scalars and norms don't.

    Each group's `lr_factor` is to be multiplied to the learning rate of the step.
    """
    factors = _lr_factors(towers, params)
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = params.weight_decay if parameter.ndim >= 2 else 0.0
            # The fused step takes no sharded and whole ones together.
            kind = decay, factors.get(parameter, 1.0), isinstance(parameter, DTensor)
            groups[kind].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": decay, "lr_factor": factor}
            for (decay, factor, _), members in groups.items()
        ],
        lr=params.lr,
        betas=(params.beta1, params.beta2),
        eps=params.eps,
        fused=True,
    )


def _lr_factors(towers: Towers, params: Params) -> dict[nn.Parameter, float]:
    """The factor of each of the towers' parameters.

    The projection has the tower's own factor, and each layer below it `layer_decay` times that of the layer
    above; what lies below the first layer is one layer more.

    Source: Bao et al. 2022, *BEiT* (arXiv:2106.08254), appendix on fine-tuning; EVA-CLIP's pre-training.
    """
    factors: dict[nn.Parameter, float] = {}
    for name, tower in (("image", towers.clip.visual), ("text", towers.clip.text)):
        blocks = {key: LAYER.search(key) for key, _ in tower.named_parameters()}
        num_layers = 1 + max((int(found[1]) for found in blocks.values() if found), default=-1)
        for key, parameter in tower.named_parameters():
            below = num_layers + 1 if BELOW_BLOCKS.search(key) else 0
            if found := blocks[key]:
                below = num_layers - int(found[1])
            factors[parameter] = params.lr_factors.get(name, 1.0) * params.layer_decay**below  # type: ignore[call-overload]
    return factors


def learning_rate(step: int, params: Params) -> float:
    """Linear from 1e-6 to `lr` over the warm-up, then by the schedule down to `lr_min`.

    So in each phase, times its factor.
    """
    _, step, phase = at(params.phases, step)
    if step < phase.warmup_steps:
        share = step / phase.warmup_steps
        return phase.lr_factor * (LR_BEFORE_WARMUP + share * (params.lr - LR_BEFORE_WARMUP))
    share = (step - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps)
    left = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}
    return phase.lr_factor * (params.lr_min + (params.lr - params.lr_min) * left[params.schedule])


def set_learning_rate(optimiser: torch.optim.Optimizer, step: int, params: Params) -> float:
    """Give each group its share of the step's learning rate, which is returned."""
    lr = learning_rate(step, params)
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_factor"]
    return lr


def clip_gradients(model: nn.Module, max_norm: float | None) -> Float[Tensor, ""]:
    """The L2 norm of all gradients together, before they are scaled down to `max_norm` if it is larger."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    sharded = [own(gradient) for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norm = nn.utils.get_total_norm(whole)
    if sharded:
        squares = nn.utils.get_total_norm(sharded) ** 2
        dist.all_reduce(squares)
        norm = (norm**2 + squares).sqrt()
    if max_norm is not None:
        torch._foreach_mul_(sharded + whole, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def step_unless(optimiser: torch.optim.AdamW, skip: Float[Tensor, ""]) -> None:
    """Take the step if `skip` is 0; if it is 1, leave weights and moments as they are.

    The decision is the device's own: the host doesn't wait for it.
    """
    optimiser.found_inf = skip  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells a fused optimizer
    optimiser.step()
