"""The pipeline is what DESIGN draws, and its components are what `dvc.yaml` runs."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from clipflow import params

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipelines" / "laclip.py"
# task -> the tasks and artifacts it reads
DATA_FLOW = {
    "ingest": set(),
    "rewrite": {"ingest.pairs"},
    "pretrain": {"ingest.pairs", "rewrite.rewrites"},
    "evaluate": {"pretrain.checkpoint", "ingest.benchmarks"},
    "register": {"pretrain.checkpoint", "evaluate.report"},
}
VIEWS = {"evaluate": {"metrics", "page"}}
"""Outputs that only the Kubeflow UI reads: see clipflow/evaluate/component.py."""


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> PipelineSpec:
    """The compiled pipeline."""
    output = tmp_path_factory.mktemp("package") / "laclip.yaml"
    done = run(PIPELINE, "--output", output)
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout
    return json_format.ParseDict(yaml.safe_load(output.read_text()), PipelineSpec())


def test_compiling_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from clipflow.submit import load; from kfp.compiler import Compiler;"
        f"from pathlib import Path; Compiler().compile(load(Path({str(PIPELINE)!r})), 'x.yaml');"
        "sys.exit('torch' in sys.modules)"
    )
    done = run("-c", code, cwd=tmp_path)
    assert (done.returncode, (tmp_path / "x.yaml").exists()) == (0, True), done.stderr


def test_stock_compiler_makes_the_same_package(tmp_path: Path) -> None:
    stock = "from kfp.cli.__main__ import main; main()"
    done = run("-c", stock, "dsl", "compile", "--py", PIPELINE, "--output", tmp_path / "stock.yaml")
    assert done.returncode == 0, done.stderr
    assert run(PIPELINE, "--output", tmp_path / "ours.yaml").returncode == 0
    assert (tmp_path / "ours.yaml").read_bytes() == (tmp_path / "stock.yaml").read_bytes()


def test_data_flow(spec: PipelineSpec) -> None:
    flow = {
        name: {
            f"{a.task_output_artifact.producer_task}.{a.task_output_artifact.output_artifact_key}"
            for a in task.inputs.artifacts.values()
        }
        for name, task in spec.root.dag.tasks.items()
    }
    assert flow == DATA_FLOW


def test_each_stage_reads_its_own_parameter(spec: PipelineSpec) -> None:
    values = params.read(ROOT / "params.yaml")
    assert set(spec.root.input_definitions.parameters) == {f"{s}_params" for s in params.STAGES}
    for stage in params.STAGES:
        task = spec.root.dag.tasks[stage]
        assert task.inputs.parameters["params"].component_input_parameter == f"{stage}_params"
        text = spec.root.input_definitions.parameters[f"{stage}_params"].default_value.string_value
        assert params.parse(text, stage) == params.parse(params.select(values, stage), stage)


def test_only_the_changed_stage_changes(spec: PipelineSpec, tmp_path: Path) -> None:
    changed = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    changed.write_text(re.sub(r"(?m)^(  steps:) \d+", r"\1 7", text))
    output = tmp_path / "changed.yaml"
    assert run(PIPELINE, "--params", changed, "--output", output).returncode == 0
    other = json_format.ParseDict(yaml.safe_load(output.read_text()), PipelineSpec())
    mine, theirs = (s.root.input_definitions.parameters for s in (spec, other))
    assert {name for name in mine if mine[name] != theirs[name]} == {"pretrain_params"}


def test_no_task_is_cached_while_keys_leave_out_content(spec: PipelineSpec) -> None:
    tasks = spec.root.dag.tasks.values()
    assert not any(task.caching_options.enable_cache for task in tasks)


def test_every_task_has_a_display_name(spec: PipelineSpec) -> None:
    names = {name: task.task_info.name for name, task in spec.root.dag.tasks.items()}
    assert all(shown and shown != name for name, shown in names.items())


@pytest.mark.parametrize("stage", params.STAGES)
def test_component_is_the_stage(spec: PipelineSpec, stage: str) -> None:
    component = spec.components[f"comp-{stage}"]
    inputs, outputs = component.input_definitions, component.output_definitions
    artifacts = {*inputs.artifacts, *outputs.artifacts} - VIEWS.get(stage, set())
    assert list(inputs.parameters) == ["params"]
    assert artifacts == keywords(stage)


@pytest.mark.parametrize("stage", params.STAGES)
def test_dvc_stage_is_the_stage(spec: PipelineSpec, stage: str) -> None:
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    command = " ".join(dvc["cmd"].split())
    flags = re.search(rf"\bclipflow {stage}\b(.*)", command)
    assert flags, command
    paths = dict(re.findall(r"--(\w+)[ =](\S+)", flags[1]))
    paths.pop("params", None)
    assert set(paths) == keywords(stage)

    deps, outs = (_names(dvc.get(key, [])) for key in ("deps", "outs"))
    component = spec.components[f"comp-{stage}"]
    assert {paths[name] for name in component.input_definitions.artifacts} <= deps
    written = set(component.output_definitions.artifacts) - VIEWS.get(stage, set())
    assert {paths[name] for name in written} == outs


def keywords(stage: str) -> set[str]:
    """The artifacts of a stage: the keywords of its `run` that are paths."""
    parameters = inspect.signature(
        importlib.import_module(f"clipflow.{stage}.stage").run
    ).parameters
    paths = {name for name, p in parameters.items() if p.annotation == "Path"}
    assert {p.kind for p in parameters.values()} == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }
    return paths


def _names(entries: list[Any]) -> set[str]:
    """Paths in a list of dvc.yaml, whose entries are `path` or `path: {options}`."""
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
