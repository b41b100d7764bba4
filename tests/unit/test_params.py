"""params.yaml: what is accepted, and how what isn't is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clipflow import params, reference
from clipflow.errors import ParamsError
from fakes.artifacts import ROOT


def refused(values: dict[str, Any], stage: str) -> str:
    with pytest.raises(ParamsError) as caught:
        params.parse(params.select(values, stage), stage)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("stage", params.STAGES)
def test_the_real_file_is_valid(stage: str) -> None:
    params.load(ROOT / "params.yaml", stage)


def test_every_key_of_the_real_file_has_a_meaning() -> None:
    lines = reference.describe(ROOT / "params.yaml").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  ") and not line.startswith("   "):
            assert below.startswith("      "), f"{line.strip()} has no meaning"


def test_selection_brings_the_entry_and_no_other(values: dict[str, Any]) -> None:
    values["recipes"]["clip"] = {"no such key": 1}
    chosen = params.parse(params.select(values, "pretrain"), "pretrain")
    assert chosen.recipe.name == "laclip"


def test_a_stage_survives_the_way_through_json(values: dict[str, Any]) -> None:
    for stage in params.STAGES:
        section = params.parse(params.select(values, stage), stage)
        assert params.parse(section.model_dump_json(), stage) == section


def test_unknown_recipe(values: dict[str, Any]) -> None:
    values["pretrain"]["recipe"] = "laclipp"
    assert "no entry 'laclipp' under 'recipes:'; did you mean 'laclip'?" in refused(
        values, "pretrain"
    )


def test_entry_without_a_file(values: dict[str, Any]) -> None:
    values["pretrain"]["recipe"] = "lacip"
    values["recipes"]["lacip"] = {"temperature_init": 0.07}
    assert "pretrain.recipe: unknown name 'lacip'; did you mean 'laclip'?" in refused(
        values, "pretrain"
    )


def test_unknown_key(values: dict[str, Any]) -> None:
    values["pretrain"]["batchsize"] = 4
    assert "pretrain.batchsize: unknown key; did you mean 'batch_size'?" in refused(
        values, "pretrain"
    )


def test_unknown_key_of_an_entry(values: dict[str, Any]) -> None:
    values["recipes"]["laclip"]["temperature"] = 4
    message = refused(values, "pretrain")
    assert "recipes.laclip.temperature: unknown key; did you mean 'temperature_init'?" in message


def test_wrong_type(values: dict[str, Any]) -> None:
    values["pretrain"]["steps"] = "many"
    assert "pretrain.steps: input should be a valid integer, got 'many'" in refused(
        values, "pretrain"
    )


def test_out_of_bounds(values: dict[str, Any]) -> None:
    values["recipes"]["laclip"]["temperature_init"] = 0
    assert "temperature_init: input should be greater than 0, got 0" in refused(values, "pretrain")


def test_missing_key(values: dict[str, Any]) -> None:
    del values["rewrite"]["seed"]
    assert "rewrite.seed: field required" in refused(values, "rewrite")


def test_unknown_section(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("pretrian: {}\n")
    with pytest.raises(ParamsError, match="unknown section 'pretrian'; did you mean 'pretrain'"):
        params.read(file)


@pytest.mark.parametrize("text", ["a: [1", "just words", ""])
def test_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        params.read(file)


def test_what_dvc_writes_is_a_number(tmp_path: Path, values: dict[str, Any]) -> None:
    file = tmp_path / "params.yaml"
    with file.open("w") as stream:
        YAML().dump(values, stream)
    file.write_text(file.read_text().replace("lr: 0.001", "lr: 5e-05"))
    assert params.load(file, "pretrain").lr == 5e-5


def test_flat_keys_are_dotted(stage_params: Any) -> None:
    flat = params.flat(stage_params("pretrain"))
    assert flat["recipe.name"] == "laclip"
    assert flat["recipe.temperature_init"] == 0.07
    assert flat["batch_size"] == 16


def test_an_entry_that_is_no_mapping(values: dict[str, Any]) -> None:
    values["recipes"]["laclip"] = 0.07
    assert "recipes.laclip: expected its keys with their values, got 0.07" in refused(
        values, "pretrain"
    )
