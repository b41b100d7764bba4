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
from clipflow.submit import load
from contract import dag

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipelines" / "laclip.py"
VIEWS = {"metrics", "page", "confusion"}
"""Outputs that only the Kubeflow UI reads: see clipflow/evaluate/component.py."""


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )


def parsed(package: Path) -> PipelineSpec:
    """The pipeline in a package; the second document is of its pods."""
    return json_format.ParseDict(next(yaml.safe_load_all(package.read_text())), PipelineSpec())


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> PipelineSpec:
    """The compiled pipeline."""
    output = tmp_path_factory.mktemp("package") / "laclip.yaml"
    done = run(PIPELINE, "--output", output)
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout
    return parsed(output)


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
    # in the order of its hashes kfp writes down the parameters of groups, anew in every process
    ours, theirs = (
        list(yaml.safe_load_all((tmp_path / name).read_text()))
        for name in ("ours.yaml", "stock.yaml")
    )
    assert ours == theirs


@pytest.mark.parametrize("name", dag.PIPELINES)
def test_summary_is_as_reviewed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the change is meant, `python tests/contract/dag.py` writes it down."""
    text = (dag.FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert dag.describe(load(ROOT / "pipelines" / f"{name}.py")) == text


def test_summary_refuses_a_field_that_pods_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load(PIPELINE)
    executors = pipeline.platform_spec.platforms["kubernetes"].deployment_spec.executors
    executors["exec-ingest"]["nodeSelectr"] = "gpu"
    with pytest.raises(json_format.ParseError, match="nodeSelectr"):
        dag.describe(pipeline)


def tasks(spec: PipelineSpec) -> dict[str, Any]:
    """All tasks, also those in loops and handlers."""
    found = dict(spec.root.dag.tasks)
    for component in spec.components.values():
        found |= dict(component.dag.tasks)
    return found


def test_each_stage_reads_its_own_parameter(spec: PipelineSpec) -> None:
    values = params.read(ROOT / "params.yaml")
    for stage in params.STAGES:
        task = tasks(spec)[stage]
        given = task.inputs.parameters["params"].component_input_parameter
        assert given.removeprefix("pipelinechannel--") == f"{stage}_params"
        text = spec.root.input_definitions.parameters[f"{stage}_params"].default_value.string_value
        assert params.parse(text, stage) == params.parse(params.select(values, stage), stage)


def test_only_the_changed_stage_changes(spec: PipelineSpec, tmp_path: Path) -> None:
    changed = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    changed.write_text(re.sub(r"(?m)^(  steps:) \d+", r"\1 7", text))
    output = tmp_path / "changed.yaml"
    assert run(PIPELINE, "--params", changed, "--output", output).returncode == 0
    other = parsed(output)
    mine, theirs = (s.root.input_definitions.parameters for s in (spec, other))
    assert {name for name in mine if mine[name] != theirs[name]} == {"pretrain_params"}


def test_cache_keys_hold_what_inputs_contain(spec: PipelineSpec) -> None:
    """Kubeflow's key has parameters but no contents: beside each artifact its digest is a parameter."""
    for name, task in tasks(spec).items():
        if not task.caching_options.enable_cache or task.component_ref.name.startswith("comp-for"):
            continue
        inputs = spec.components[task.component_ref.name].input_definitions
        for artifact in inputs.artifacts:
            digests = {f"{artifact}_digest", f"{artifact}_digests"}
            assert digests & set(inputs.parameters), f"{name}: {artifact} has no digest beside it"


def test_what_changes_the_world_is_not_cached(spec: PipelineSpec) -> None:
    uncached = {n for n, task in tasks(spec).items() if not task.caching_options.enable_cache}
    groups = {n for n in uncached if n.startswith(("for-loop", "exit-handler"))}
    assert uncached - groups == {"fingerprint", "register", "finish"}


def test_every_task_has_a_display_name(spec: PipelineSpec) -> None:
    names = {name: task.task_info.name for name, task in tasks(spec).items()}
    assert all(shown and shown != name for name, shown in names.items())


@pytest.mark.parametrize("stage", params.STAGES)
def test_component_is_the_stage(spec: PipelineSpec, stage: str) -> None:
    component = spec.components[f"comp-{stage}"]
    inputs, outputs = component.input_definitions, component.output_definitions
    artifacts = {*inputs.artifacts, *outputs.artifacts} - VIEWS
    assert "params" in inputs.parameters
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
    written = set(component.output_definitions.artifacts) - VIEWS
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
