"""What each key of a params file means: values from the file, meanings from the models' docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

from clipflow import params
from clipflow.catalogue import Catalogue, Choice, Section


def describe(file: Path) -> str:
    """Every key with its value and meaning. Raises ParamsError if any section or entry is invalid."""
    values = params.read(file)
    lines: list[str] = []
    for stage in params.STAGES:
        section = params.load(file, stage)
        lines += _section(stage, type(section), section)
    for stage, (key, catalogue, package) in params.SELECTS.items():
        for name in values.get(catalogue) or {}:
            selecting = {**values, stage: {**values[stage], key: name}}
            choice = getattr(
                params.parse(
                    params.select(selecting, stage, where=str(file)), stage, where=str(file)
                ),
                key,
            )
            lines += _section(f"{catalogue}.{name}", Catalogue(package).load(name), choice)
    return "\n".join(lines)


def _section(title: str, cls: type[Section], section: Any) -> list[str]:
    first = (inspect.getdoc(cls) or "").splitlines()[0]
    return [f"{title}: {first}", *_keys(cls, section, indent=2), ""]


def _keys(cls: type[Section], section: Any, indent: int) -> list[str]:
    """Each key with its value and meaning; those of a section in the section are set in further."""
    lines = []
    margin, deeper = " " * indent, " " * (indent + 4)
    for name, meaning in meanings(cls).items():
        if name == "name":
            continue
        value = getattr(section, name)
        nested = isinstance(value, Section) and not isinstance(value, Choice)
        shown = "" if nested else "null" if value is None else getattr(value, "name", value)
        lines.append(f"{margin}{name}: {shown}".rstrip())
        lines += textwrap.wrap(meaning, 88, initial_indent=deeper, subsequent_indent=deeper)
        if nested:
            lines += _keys(type(value), value, indent + 4)
    return lines


def meanings(cls: type[Section]) -> dict[str, str]:
    """The string below each field of a params class and of the classes it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not (isinstance(base, type) and issubclass(base, Section) and base is not Section):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                text = below.value.value if is_text else ""
                found[field.target.id] = " ".join(str(text).split())
    return {name: found[name] for name in found if name in cls.model_fields}
