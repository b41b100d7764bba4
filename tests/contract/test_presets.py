"""The paper's params files: complete, valid, and of as many steps as they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clipflow import params
from fakes.artifacts import ROOT

PRESETS = sorted((ROOT / "pipelines" / "params").glob("*.yaml"))


def test_the_papers_four_data_sets() -> None:
    assert [path.stem for path in PRESETS] == ["cc12m", "cc3m", "laion400m", "redcaps"]


@pytest.fixture(params=PRESETS, ids=lambda path: path.stem)
def preset(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.mark.parametrize("stage", params.STAGES)
def test_every_stage_takes_it(preset: Path, stage: str) -> None:
    params.load(preset, stage)


def keys(value: Any) -> Any:
    """The keys of a file, nested, without the values."""
    return {key: keys(value[key]) for key in value} if isinstance(value, dict) else None


def test_it_has_the_keys_of_params_yaml(preset: Path) -> None:
    loaded, own = (
        YAML(typ="safe").load(path.read_text()) for path in (preset, ROOT / "params.yaml")
    )
    assert keys(loaded) == keys(own)


def test_its_steps_are_the_epochs_it_says(preset: Path) -> None:
    text = preset.read_text()
    found = re.search(r"(\d+) epochs of ([\d,]+) pairs", text)
    assert found
    epochs, pairs = int(found[1]), int(found[2].replace(",", ""))
    pretrain = params.load(preset, "pretrain")
    assert pretrain.recipe.name == "laclip"
    assert pretrain.steps == epochs * (pairs // pretrain.batch_size)


def test_what_is_not_verified_says_so(preset: Path) -> None:
    """Every value of the paper's table carries a mark of where it is from."""
    lines = preset.read_text().splitlines()
    for key in ("batch_size", "steps", "warmup_steps", "lr", "weight_decay"):
        (line,) = (x for x in lines if re.match(rf"  {key}: \S+ +#", x))
        assert re.search(r"\[[RV]\]", line), line
