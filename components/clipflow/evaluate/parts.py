"""A part of an evaluation: what one benchmark task gave, in a form that another run can go on with.

part/manifest.json    model, benchmarks and params; all of the task's outcome that is no array
part/arrays.npz       its arrays: values per sample, labels, predictions, ranks
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipflow.artifacts import manifest
from clipflow.artifacts import report as report_artifact
from clipflow.errors import ArtifactError
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import (
    Classification,
    Compositional,
    Outcome,
    Results,
    Retrieval,
    Shown,
)  # fmt: skip
from clipflow.evaluate.subject import Subject

SCHEMA = report_artifact.PART
ARRAYS = "arrays.npz"
KINDS: dict[str, type[Outcome]] = {
    "classification": Classification,
    "retrieval": Retrieval,
    "compositional": Compositional,
}


def write(
    out: Path, params: Params, outcome: Outcome, subject: Subject, *, measured_on: str
) -> None:
    """Write the part of one task."""
    kind = next(name for name, cls in KINDS.items() if cls is type(outcome))
    facts, arrays = _taken_apart(outcome)
    with manifest.complete_or_absent(out) as folder:
        np.savez(folder / ARRAYS, allow_pickle=False, **arrays)
        manifest.write(
            folder,
            SCHEMA,
            task=outcome.task,
            kind=kind,
            facts=facts,
            model=subject.as_json(),
            sha256=manifest.file_digest(folder / ARRAYS),
            **_made_with(params, measured_on),
        )


def read(
    parts: Sequence[Path],
    params: Params,
    *,
    checkpoint: Path,
    measured_on: str,
    names: Sequence[str],
) -> tuple[Results, Subject]:
    """The results of all tasks, in the order of one run over all.

    Raises ArtifactError for a part of another checkpoint, of other benchmarks or params, for two parts of
    one task, for a damaged part, and for a task without a part.
    """
    expected = _made_with(params, measured_on)
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for part in parts:
        facts = manifest.read(part, SCHEMA)
        subject = Subject.of(checkpoint, **facts["model"])
        expected["model"] = {**facts["model"], "digest": subject.digest}
        for name, value in expected.items():
            if facts[name] != value:
                raise ArtifactError(
                    f"{part}: made with {name} {facts[name]}, expected {value};"
                    " merge only what 'clipflow evaluate --task' made with these"
                )
        if facts["task"] in found:
            other, _ = found[facts["task"]]
            raise ArtifactError(f"{part}: task '{facts['task']}' is also in {other}; leave one out")
        found[facts["task"]] = part, facts
    if missing := [name for name in names if name not in found]:
        raise ArtifactError(
            f"no part has {', '.join(missing)}; make it with 'clipflow evaluate --task {missing[0]}'"
        )
    results = Results()
    for name in names:
        results.add(_put_together(*found[name]))
    return results, Subject.of(checkpoint, **found[names[0]][1]["model"])


def _made_with(params: Params, measured_on: str) -> dict[str, Any]:
    return {"benchmarks": measured_on, "params": params.model_dump(mode="json")}


def _taken_apart(outcome: Outcome) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is no array, ready for JSON; and arrays by `field` or `field/key`."""
    facts, arrays = {}, {}
    for field in dataclasses.fields(outcome):
        value = getattr(outcome, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif field.name in ("samples", "ranks"):
            arrays |= {f"{field.name}:{key}": array for key, array in value.items()}
        elif field.name == "gallery":
            facts[field.name] = [dataclasses.asdict(shown) for shown in value]
        else:
            facts[field.name] = value
    return facts, arrays


def _put_together(part: Path, stored: dict[str, Any]) -> Outcome:
    path, task = part / ARRAYS, stored["task"]
    if not path.is_file() or manifest.file_digest(path) != stored["sha256"]:
        raise ArtifactError(
            f"{path}: missing or damaged; make it again with 'clipflow evaluate --task {task}'"
        )
    values: dict[str, Any] = dict(stored["facts"])
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            field, _, key = name.partition(":")
            if key:
                values.setdefault(field, {})[key] = file[name]
            else:
                values[field] = file[name]
    if "gallery" in values:
        values["gallery"] = [Shown(**shown) for shown in values["gallery"]]
    return KINDS[stored["kind"]](**values)
