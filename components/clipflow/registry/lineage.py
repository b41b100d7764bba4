"""From a registered version, or a checkpoint's folder, back to all that it was made of.

Each link of the lineage key is followed to its other end: a finding says what is there, or what is missing
and how to mend it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.findings import Finding, ok, problem, unchecked
from clipflow.registry import data
from clipflow.track import files, git, versions

NONE, UNKNOWN = "none", "unknown"
DIRTY = "-dirty"


@dataclass(frozen=True)
class Subject:
    """What is followed: its lineage key, and what its checkpoint says of itself."""

    tags: dict[str, str]
    facts: dict[str, Any]
    """The checkpoint's manifest; empty where there is none."""
    found: list[Finding]
    """How the version and its checkpoint were found."""


def follow(name: str) -> Iterator[Finding]:
    """A finding per link, from the version back to the data.

    name: `MODEL@alias`, `MODEL/VERSION`, or the folder of a checkpoint. Raises TrackingError or
    ArtifactError if there is no such thing.
    """
    subject = _of_folder(Path(name)) if Path(name).is_dir() else _of_version(versions.find(name))
    yield from subject.found
    tags = subject.tags
    yield _report(tags)
    yield _mlflow_run(tags.get("mlflow_run_id", NONE))
    yield _kfp_run(tags.get("kfp_run_id", NONE))
    yield _image(tags.get("image_digest", NONE))
    yield _commit(tags.get("git_sha", UNKNOWN))
    yield from data.follow(tags, subject.facts.get("data") or {})


def _of_version(version: Any) -> Subject:
    model = versions.title(version)
    wanted = version.tags.get("checkpoint_digest", UNKNOWN)
    with tempfile.TemporaryDirectory() as folder:
        file = versions.checkpoint_file(version, manifest.MANIFEST, Path(folder))
        text = file.read_text(encoding="utf-8") if file else None
        digest = manifest.digest(file.parent) if file else None
    found = [ok("version", f"{model}, in MLflow at {track.place()}")]
    if text is None:
        found.append(
            problem(
                "checkpoint",
                f"{wanted}: its files are not in MLflow",
                "register the checkpoint again, or restore the server's artifacts",
            )
        )
    elif digest != wanted:
        found.append(
            problem(
                "checkpoint",
                f"the version names {wanted}, its files are {digest}",
                "register it again",
            )
        )
    else:
        found.append(ok("checkpoint", f"{digest}, with its weights in MLflow"))
    return Subject(dict(version.tags), json.loads(text) if text else {}, found)


def _of_folder(folder: Path) -> Subject:
    facts, digest = checkpoints.read(folder), manifest.digest(folder)
    tags = {name: str(value) for name, value in checkpoints.provenance(folder).items()}
    found = [ok("checkpoint", f"{digest}, in {folder}")]
    track.connect()
    if registered := versions.of_checkpoint(digest):
        tags |= dict(registered[-1].tags)
        names = ", ".join(versions.title(version) for version in registered)
        found.insert(0, ok("version", f"{names}, in MLflow at {track.place()}"))
    else:
        fix = f"run 'clipflow register --checkpoint {folder} --report REPORT'"
        found.insert(0, problem("version", f"none in MLflow at {track.place()}", fix))
    return Subject(tags, facts, found)


def _report(tags: dict[str, str]) -> Finding:
    """It lies in the run that made the checkpoint, unless another was made since."""
    digest, run_id = tags.get("report_digest"), tags.get("mlflow_run_id", NONE)
    if digest is None:
        return problem("report", "none is named", "register the checkpoint with its report")
    if data.here("report", digest):
        return ok("report", f"{digest}, in artifacts/report")
    with tempfile.TemporaryDirectory() as folder:
        known = run_id != NONE and track.look_up(track.client().get_run, run_id)
        report = files.report(run_id, [], Path(folder)) if known else None
        logged = manifest.digest(report) if report else None
    if logged == digest:
        return ok("report", f"{digest}, report/report.html of MLflow run {run_id}")
    return data.elsewhere("report", digest, tags)


def _mlflow_run(run_id: str) -> Finding:
    run = None if run_id == NONE else track.look_up(track.client().get_run, run_id)
    if run is None:
        fix = "set MLFLOW_TRACKING_URI to the server that it was trained with"
        return problem("MLflow run", f"{run_id}, not at {track.place()}", fix)
    if run.info.lifecycle_stage != "active":
        fix = f"mlflow runs restore --run-id {run_id}"
        return problem("MLflow run", f"{run_id} is deleted", fix)
    page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}"
    served = track.uri().startswith("http")
    place = track.place() if served else "make ui, then http://127.0.0.1:5000"
    return ok("MLflow run", f"{run.info.run_name}, {run.info.status}, {place}/{page}")


def _kfp_run(run_id: str) -> Finding:
    if run_id == NONE:
        return ok("Kubeflow run", "none: trained outside Kubeflow")
    endpoint = os.environ.get("KFP_ENDPOINT")
    if not endpoint:
        return unchecked("Kubeflow run", run_id, "set KFP_ENDPOINT, to be shown its address")
    return ok("Kubeflow run", f"{endpoint.rstrip('/')}/#/runs/details/{run_id}")


def _image(name: str) -> Finding:
    if name == NONE:
        return ok("image", "none: trained outside a container")
    if "@sha256:" in name:
        return ok("image", name)
    fix = "a tag may mean another image by now; 'make push' pins images by digest"
    return problem("image", f"{name} has no digest", fix)


def _commit(noted: str) -> Finding:
    sha = noted.removesuffix(DIRTY)
    if sha == UNKNOWN:
        fix = "train in a clone of the repository, or with GIT_SHA set"
        return problem("Git commit", "none was noted", fix)
    if not git.has_commit(sha):
        fix = "run this in the repository that it was trained from, after 'git fetch --all'"
        return problem("Git commit", f"{sha} is not in this repository", fix)
    if noted.endswith(DIRTY):
        fix = "what was changed and not committed is known to nobody; commit, then train"
        return problem("Git commit", f"{sha}, with changes that were not committed", fix)
    return ok("Git commit", f"{sha}, {git.git('log', '-1', '--format=%s', sha)}")
