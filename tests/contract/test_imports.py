"""Import directions, and dvc.yaml's deps against what each stage imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from clipflow.catalogue import Catalogue
from clipflow.params import STAGES
from fakes.artifacts import ROOT

SOURCE = ROOT / "components"
PACKAGE = SOURCE / "clipflow"
FILES = sorted(PACKAGE.rglob("*.py"))
PLUMBING = (
    "__init__",
    "artifacts.__init__",
    "catalogue",
    "checkout",
    "errors",
    "log",
    "objects",
    "params",
    "store",
    "track",
)
"""Modules that change how a stage speaks, not what it writes: they need not make it run again."""


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def closure(module: str) -> set[str]:
    """The modules of clipflow that importing one brings in."""
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in found or name not in MODULES:
            continue
        found.add(name)
        todo += imported(MODULES[name])
    return found


def test_stages_do_not_import_each_other() -> None:
    for stage in STAGES:
        for path in (PACKAGE / stage).rglob("*.py"):
            for other in set(STAGES) - {stage}:
                bad = [n for n in imported(path) if n.startswith(f"clipflow.{other}")]
                assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("model", {"model", "errors"}),
        ("recipes", {"recipes", "model", "catalogue", "errors"}),
        ("artifacts", {"artifacts", "errors"}),
    ],
)
def test_directions(package: str, allowed: set[str]) -> None:
    for path in (PACKAGE / package).rglob("*.py"):
        ours = {n.split(".")[1] for n in imported(path) if n.startswith("clipflow.")}
        assert ours <= allowed, f"{path.relative_to(ROOT)} imports {ours - allowed}"


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("kfp", ("component.py", "pods.py", "submit.py", "kfp_command.py")),
        ("mlflow", ("track/", "register/")),
    ],
)
def test_trackers_and_pipelines_keep_to_their_rooms(package: str, homes: tuple[str, ...]) -> None:
    for path in FILES:
        place = path.relative_to(PACKAGE).as_posix()
        if any(name.split(".")[0] == package for name in imported(path)):
            assert place.endswith(homes) or place.startswith(homes), f"{place} imports {package}"


CHOICES = {
    "ingest": ("ingest.sources", "ingest.source"),
    "rewrite": ("rewrite.generators", "rewrite.generator"),
    "pretrain": ("recipes", "pretrain.recipe"),
}
"""Of stages that choose from a catalogue: its package, and the param that says which."""


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_what_the_stage_imports(stage: str) -> None:
    """Also what each choice of a catalogue imports, by the deps that dvc.yaml then has."""
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    deps = [dep for dep in stages[stage]["deps"] if dep.startswith("components/")]
    needed = closure(f"clipflow.{stage}.stage")
    if stage not in CHOICES:
        for path in (PACKAGE / stage).glob("*.py"):
            if path.name != "component.py":
                needed |= closure(name_of(path))
        assert_covered(needed, deps, stage)
        return
    package, param = CHOICES[stage]
    for name in Catalogue(f"clipflow.{package}").names():
        chosen = [dep.replace(f"${{{param}}}", name) for dep in deps]
        assert_covered(
            needed | closure(f"clipflow.{package}.{name}"), chosen, f"{stage} with {param}={name}"
        )


def assert_covered(needed: set[str], deps: list[str], what: str) -> None:
    for name in sorted(needed):
        path = MODULES[name].relative_to(ROOT).as_posix()
        place = MODULES[name].relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        if place in PLUMBING or place.startswith("track."):
            continue
        assert any(path == dep or path.startswith(f"{dep}/") for dep in deps), (
            f"dvc.yaml: {what} runs {path}, which is not among its deps"
        )


@pytest.mark.parametrize(
    "command", ["--help", "ingest --help", "rewrites import --help", "score --help"]
)
def test_help_needs_no_torch(command: str) -> None:
    code = (
        "import sys; from clipflow.cli import app\n"
        f"try: app({command.split()!r})\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
