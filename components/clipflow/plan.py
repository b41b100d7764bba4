"""What a pre-training will need: parameters, arithmetic, memory, hours and dollars, before it is booked."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from clipflow.errors import ParamsError, did_you_mean
from clipflow.model.batch import Batch
from clipflow.model.between_steps import BeforeStep
from clipflow.model.texts import Texts
from clipflow.model.tiled import TILE_ELEMENTS
from clipflow.model.towers import Towers
from clipflow.pretrain import phases
from clipflow.pretrain.optimiser import adamw, clip_gradients
from clipflow.pretrain.params import Params
from clipflow.recipes import Phase

FULL = Phase(steps=1, warmup_steps=0)
PROBE = 16
"""Samples by which arithmetic and memory per sample are counted."""
TIMED_BATCHES = 8, 32
"""Batch sizes that a CPU is timed at; the time of a larger one lies on the line through them."""


@dataclass(frozen=True)
class Device:
    """What a vendor's data sheet says of one device: usable memory, peak without sparsity."""

    memory_gib: float
    bfloat16_tflops: float
    float32_tflops: float


DEVICES = {
    "h200": Device(131, 989, 67),  # H200 SXM: 141 GB
    "h100": Device(74, 989, 67),  # H100 SXM: 80 GB
    "a100": Device(74, 312, 19.5),  # A100 SXM: 80 GB
}
UTILISATION = 0.35
"""Assumed share of a GPU's peak that training reaches; not measured by us."""


@dataclass(frozen=True)
class Plan:
    """The estimate for one run."""

    num_parameters: int
    num_trained: int
    flops_per_sample: float
    memory_gib: float
    """Peak per device."""
    device_memory_gib: float
    step_s: float
    hours: float
    dollars: float | None
    basis: str
    """What the time was estimated from."""
    by_phase: list[PhaseCost]
    """Each phase by itself; the figures above are means over all steps, of the memory the most."""


@dataclass(frozen=True)
class PhaseCost:
    """The estimate for one phase."""

    steps: int
    what: str
    """The phase in words."""
    flops_per_sample: float
    activations: float
    """Bytes per device."""
    step_s: float


def plan(
    params: Params,
    *,
    devices: int,
    device_type: str,
    price: float | None = None,
    tokens_per_text: int = 16,
    utilisation: float = UTILISATION,
) -> Plan:
    """Estimate a run; `price` is in dollars per device and hour.

    Raises ParamsError for an unknown device type or a batch that doesn't divide among the devices.
    """
    if device_type not in {*DEVICES, "cpu"}:
        raise ParamsError(
            f"--device-type: no '{device_type}'; {did_you_mean(device_type, [*DEVICES, 'cpu'])}"
        )
    if params.batch_size % devices:
        raise ParamsError(
            f"pretrain.batch_size: {params.batch_size} is not a multiple of the {devices} devices"
        )
    local = params.batch_size // devices
    towers = Towers(
        params.architecture,
        params.recipe.temperature_init,
        logit_bias_init=params.recipe.logit_bias_init,
        decoder=params.recipe.has_decoder,
    ).train()
    phases.check(params, towers)
    for name in params.locked:
        towers.lock(name)
    num_texts = len(params.texts_of("a caption", [], random.Random(0)))
    objective = params.recipe.objective(towers).train()
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    total = sum(p.numel() for p in objective.parameters())
    on_gpu = device_type != "cpu"
    half = params.precision == "bfloat16" or (on_gpu and params.precision == "auto")
    embeddings = 4 * 4 * params.batch_size * towers.dim * (1 + num_texts)  # and their gradients
    copies = 4 + bool(params.ema_decay)  # weights, gradients, two moments, average
    repeated = 4 * (total + (copies - 1) * trained) / (devices if params.sharded else 1)
    if device_type == "cpu":
        device_memory, basis = (
            float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
            "a few steps timed on this machine",
        )
    else:
        device = DEVICES[device_type]
        peak = device.bfloat16_tflops if half else device.float32_tflops
        device_memory = device.memory_gib * 2**30
        basis = (
            f"{peak:g} TFLOP/s, of which {utilisation:.0%} assumed, loader and network not counted"
        )
    costs = []
    extra = objective.extra_forwards if isinstance(objective, BeforeStep) else 0.0
    more = 1 + extra / 3  # a backward is two forwards
    for phase in params.phases:
        length = min(tokens_per_text, phase.text_tokens or tokens_per_text)
        with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone are computed
            flops, kept = _per_sample(objective, probe(params, towers, PROBE, length, phase))
        if params.chunk_size and params.chunk_size < local:
            flops *= 4 / 3  # towers are run once more
        flops *= more
        step_s = (
            _timed_step(objective, towers, params, local, length, phase) * more
            if device_type == "cpu"
            else flops * local / (peak * 1e12 * utilisation)
        )
        activations = min(local, params.chunk_size or local) * kept * (0.5 if half else 1.0)
        what = phases.describe(phase, towers)
        costs.append(PhaseCost(phase.steps, what, flops, activations, step_s))
    memory = repeated + max(c.activations for c in costs) + embeddings + 4 * 4 * TILE_ELEMENTS
    flops = sum(c.steps * c.flops_per_sample for c in costs) / params.steps
    step_s = sum(c.steps * c.step_s for c in costs) / params.steps
    hours = params.steps * step_s / 3600
    return Plan(
        total, trained, flops, memory / 2**30, device_memory / 2**30, step_s, hours,
        None if price is None else price * hours * devices, basis, costs,
    )  # fmt: skip


def probe(
    params: Params, towers: Towers, num: int, tokens_per_text: int, phase: Phase = FULL
) -> Batch:
    """A batch of `num` samples as the loader makes them in a phase, of noise."""
    side = phases.side_px(phase, towers.image_size_px, towers.patch_size_px)
    num_texts = len(params.texts_of("a caption", [], random.Random(0)))

    def noise(*shape: int) -> Tensor:
        return torch.randint(256, (*shape, side, side, 3), dtype=torch.uint8)

    tokens = torch.randint(1, 1000, (num * num_texts, tokens_per_text))
    tokens[:, -1] = 1000  # the end-of-text token has the largest id
    place = torch.arange(len(tokens)).view(num, num_texts)
    return Batch(
        noise(num),
        Texts((tokens,), place, tokens.numel()),
        patches=_patches(towers, phase, num),
        views=noise(num, params.recipe.num_views) if params.recipe.num_views else None,
    )


def _patches(towers: Towers, phase: Phase, num: int) -> Tensor | None:
    """The first patches of each image, as many as the phase keeps."""
    if not phase.patch_dropout or towers.patch_size_px is None:
        return None
    _, kept = phases.num_patches(phase, towers.image_size_px, towers.patch_size_px)
    return torch.arange(kept).repeat(num, 1)


def _per_sample(objective: nn.Module, batch: Batch) -> tuple[float, float]:
    """Floating-point operations, forward and backward, and bytes kept in between, of one sample."""
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if not isinstance(value, nn.Parameter):
            kept[value.untyped_storage()._cdata] = value
        return value

    with FlopCounterMode(display=False) as flops:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = objective(batch)["loss"]
        num_bytes = sum(value.untyped_storage().nbytes() for value in kept.values())
        loss.backward()
    objective.zero_grad()
    num = len(batch.images)
    return flops.get_total_flops() / num, num_bytes / num


def _timed_step(
    objective: nn.Module,
    towers: Towers,
    params: Params,
    local: int,
    tokens_per_text: int,
    phase: Phase,
) -> float:
    """Seconds of a step of `local` samples here, without the loader, from smaller steps."""
    optimiser = adamw(objective, towers, params)

    def seconds(num: int) -> float:
        batch = probe(params, towers, num, tokens_per_text, phase)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            objective(batch)["loss"].backward()
            clip_gradients(objective, None)
            optimiser.step()
            optimiser.zero_grad()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    small, large = (min(local, batch) for batch in TIMED_BATCHES)
    at_small = seconds(small)
    if small == large:
        return at_small
    at_large = seconds(large)
    return at_large + (local - large) * (at_large - at_small) / (large - small)


def describe(found: Plan, params: Params, devices: int, device_type: str) -> str:
    """The estimate as lines to read."""
    fits = "fits" if found.memory_gib < found.device_memory_gib else "DOES NOT FIT"
    remedy = (
        ""
        if fits == "fits"
        else ": use more devices or set pretrain.chunk_size or pretrain.sharded"
    )
    lines = {
        "run": f"{params.recipe.name}, {params.architecture}, {params.steps} steps of {params.batch_size}"
        f" on {devices} x {device_type}",
        "parameters": f"{found.num_parameters / 1e6:.1f} M, {found.num_trained / 1e6:.1f} M trained",
        "arithmetic": f"{found.flops_per_sample / 1e9:.1f} GFLOP a sample, forward and backward",
        "memory": f"{found.memory_gib:.1f} GiB a device of {found.device_memory_gib:.0f} ({fits}{remedy})",
        "step": f"{found.step_s:.3g} s ({found.basis})",
        "time": f"{found.hours:.3g} h",
    }
    if found.dollars is not None:
        lines["cost"] = f"{found.dollars:,.0f} dollars"
    for number, phase in enumerate(found.by_phase if len(found.by_phase) > 1 else []):
        lines[f"phase {number}"] = (
            f"{phase.what}: {phase.flops_per_sample / 1e9:.3g} GFLOP a sample, {phase.step_s:.3g} s a step,"
            f" {phase.steps * phase.step_s / 3600:.3g} h"
        )
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items())
