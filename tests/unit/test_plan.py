"""The estimate against what is counted by hand and what is measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from clipflow import plan as module
from clipflow.cli import app
from clipflow.errors import ParamsError
from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.towers import Towers
from clipflow.plan import plan
from clipflow.recipes import CATALOGUE
from fakes.artifacts import tokenized
from fakes.recipes import architecture


def test_arithmetic_is_the_published_count_less_what_is_left_out(stage_params: Any) -> None:
    """open_clip's table has 14.78 GFLOP forward for ViT-B-32 with all 77 tokens and all positions.

    Of the last of 12 layers, 10/12 are left out for all but one position: queries, projection and MLP.
    """
    params = stage_params("pretrain", architecture="ViT-B-32")
    found = plan(params, devices=1, device_type="a100", tokens_per_text=77)
    assert found.flops_per_sample / 3 == pytest.approx(14.78e9 * (1 - 10 / 12 / 12), rel=0.02)
    assert found.num_parameters == found.num_trained == 151_277_313


def test_hours_and_dollars_by_hand(stage_params: Any) -> None:
    """Steps x batch x arithmetic over peak x share, and hours x devices x price."""
    params = stage_params("pretrain", batch_size=64, steps=1000)
    found = plan(params, devices=4, device_type="h200", price=3.0, utilisation=0.5)
    hours = 1000 * 16 * found.flops_per_sample / (989e12 * 0.5) / 3600
    assert found.hours == pytest.approx(hours)
    assert found.dollars == pytest.approx(hours * 4 * 3)
    slower = plan(stage_params("pretrain", batch_size=64, steps=1000, precision="float32"),
                  devices=4, device_type="h200", utilisation=0.5)  # fmt: skip
    assert slower.hours / found.hours == pytest.approx(989 / 67)
    assert slower.dollars is None


def test_chunks_take_less_memory_and_a_third_more_work(stage_params: Any) -> None:
    whole, chunked = (
        plan(
            stage_params("pretrain", batch_size=4096, chunk_size=size),
            devices=1,
            device_type="a100",
        )
        for size in (None, 64)
    )
    assert chunked.memory_gib < 0.2 * whole.memory_gib
    assert chunked.flops_per_sample == pytest.approx(4 / 3 * whole.flops_per_sample)


def test_activations_are_those_that_training_keeps(stage_params: Any) -> None:
    """Within 25 % of what real tensors keep, on another batch and real texts."""
    towers = Towers("ViT-S-32-alt", 0.07)
    images = torch.zeros(8, 224, 224, 3, dtype=torch.uint8)
    texts = tokenized(towers, [["one two three four five six seven eight nine ten"]] * 8)
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, torch.nn.Parameter):
            kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        sums = towers.embed_images(images).sum() + towers.embed_texts(texts).sum()
    measured = sum(value.untyped_storage().nbytes() for value in kept.values()) / 8
    assert sums.isfinite()
    params = stage_params("pretrain", recipe="clip")
    batch = module.probe(params, towers, 16, texts.groups[0].shape[1])
    _, estimated = module._per_sample(Contrastive(towers), batch)
    assert estimated == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("recipe", CATALOGUE.names())
def test_every_recipe_can_be_planned(stage_params: Any, recipe: str) -> None:
    params = stage_params("pretrain", recipe=recipe, architecture=architecture(recipe))
    found = plan(params, devices=1, device_type="a100")
    assert found.flops_per_sample > 0
    assert found.memory_gib > 0


def test_views_and_the_head_are_counted(stage_params: Any) -> None:
    """Three images instead of one, and three linear layers by which two of them are compared."""
    clip, slip = (
        plan(stage_params("pretrain", recipe=name), devices=1, device_type="a100")
        for name in ("clip", "slip")
    )
    towers = Towers("clipflow-tiny", 0.07)
    pixels = torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as flops:
        towers.image(pixels).sum().backward()
    width, hidden, dim = 128, 32, 256
    head = width * hidden + hidden * hidden + hidden * dim
    expected = clip.flops_per_sample + 2 * (flops.get_total_flops() + 2 * 3 * head)
    assert slip.flops_per_sample == pytest.approx(expected, rel=0.02)
    assert slip.num_trained - clip.num_trained == head + dim + 2 * 2 * hidden


def test_what_is_embedded_between_steps_is_counted(stage_params: Any) -> None:
    """ProtoCLIP's episodes are another forward of each sample: a third of forward and backward."""
    clip, protoclip = (
        plan(stage_params("pretrain", recipe=name), devices=1, device_type="a100")
        for name in ("clip", "protoclip")
    )
    assert protoclip.flops_per_sample / clip.flops_per_sample == pytest.approx(4 / 3, rel=0.02)


def test_a_cpus_step_is_on_the_line_through_two_that_were_timed(
    stage_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by 10 ms a step and 2 ms a sample: a real one is `make bench-plan`'s."""
    now = 0.0

    class Clocked(Contrastive):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            nonlocal now
            now += 0.010 + 0.002 * len(batch.images)
            return {"loss": self.towers.scale}

    params = stage_params("pretrain", recipe="clip")
    towers = Towers("clipflow-tiny", 0.07)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    for local in (4, 32, 128):
        found = module._timed_step(Clocked(towers), towers, params, local, 10, module.FULL)
        assert found == pytest.approx(0.010 + 0.002 * local)


def test_refusals(stage_params: Any) -> None:
    with pytest.raises(ParamsError, match=r"--device-type: no 'h20'; did you mean 'h200'\?"):
        plan(stage_params("pretrain"), devices=1, device_type="h20")
    with pytest.raises(ParamsError, match="16 is not a multiple of the 3 devices"):
        plan(stage_params("pretrain"), devices=3, device_type="h200")


def test_the_command(params_file: Path) -> None:
    flags = ["--devices", "2", "--device-type", "a100", "--price", "2.5"]
    done = CliRunner().invoke(app, ["plan", "--params", str(params_file), *flags])
    assert done.exit_code == 0, done.output
    assert re.search(r"^parameters +7\.1 M, 7\.1 M trained$", done.output, re.MULTILINE)
    assert re.search(r"^cost +\d", done.output, re.MULTILINE)
