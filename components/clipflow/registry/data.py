"""Where the artifacts are that a model was made of: artifacts/, the store, or a commit's dvc.lock."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipflow import track
from clipflow.artifacts import manifest
from clipflow.errors import StoreError
from clipflow.findings import Finding, ok, problem
from clipflow.objects import Objects
from clipflow.track import dvc_lock, versions

FOLDER = Path("artifacts")
MADE_BY = {"pairs": "ingest", "benchmarks": "ingest", "rewrites": "rewrite", "report": "evaluate"}


def follow(tags: Mapping[str, str], told: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding for each data set that the lineage key names, and for where that came from.

    told: what the checkpoint says of its data, as pretrain noted it.
    """
    for name in ("pairs", "rewrites", "benchmarks"):
        digest = tags.get(f"{name}_digest")
        if digest is None:
            fix = f"train and measure again with {FOLDER / name}"
            yield problem(name, "no digest was noted", fix)
        elif here(name, digest):
            yield ok(name, f"{digest}, in {FOLDER / name}")
        else:
            yield elsewhere(name, digest, tags)
    if weights := tags.get("initial_weights_digest"):
        yield _initial_weights(weights)
    source = told.get("pairs", {}).get("source")
    generator = told.get("rewrites", {}).get("generator")
    if source:
        yield ok("source of the pairs", f"{source}, {told['pairs']['num_pairs']:,} pairs taken")
    if generator:
        model = told["rewrites"].get("model")
        accepted = sum(told["rewrites"]["accepted"].values())
        by = f"{generator} with {model}" if model else generator
        yield ok("generator of the rewrites", f"{by}, {accepted:,} accepted")


def _initial_weights(digest: str) -> Finding:
    """They are a checkpoint of ours, which has a lineage of its own."""
    found = versions.of_checkpoint(digest)
    if found:
        names = ", ".join(f"{version.name}/{version.version}" for version in found)
        return ok("initial weights", f"{digest}, registered as {names}")
    fix = "register the checkpoint that pretrain.initial_weights names"
    return problem("initial weights", f"{digest}, not in MLflow at {track.place()}", fix)


def here(name: str, digest: str) -> bool:
    """Whether the artifact in artifacts/ is the one with the digest."""
    folder = FOLDER / name
    return (folder / manifest.MANIFEST).is_file() and manifest.digest(folder) == digest


def elsewhere(name: str, digest: str, tags: Mapping[str, str]) -> Finding:
    """What is known of an artifact that is not in artifacts/ now."""
    if url := _published(name, digest):
        return ok(name, f"{digest}, at {url}")
    noted = tags.get(name + dvc_lock.TAG)
    commit = dvc_lock.commit_of(noted) if noted else None
    if commit:
        get = f"git checkout {commit[:12]} -- dvc.lock && dvc checkout {FOLDER / name}"
        return ok(name, f"{digest}, in dvc.lock of commit {commit[:12]}: {get}")
    said = f"{digest}, not in {FOLDER / name}"
    if noted:
        return problem(
            name,
            f"{said}, and no commit here has DVC's hash {noted} in dvc.lock",
            "git fetch --all; after 'dvc repro', commit dvc.lock",
        )
    stage = MADE_BY.get(name)
    fix = "set CLIPFLOW_STORE if it was made on a cluster"
    if stage:
        fix += f"; else 'dvc repro {stage}' at the commit below"
    return problem(name, f"{said}, and DVC didn't have it when this was registered", fix)


def _published(kind: str, digest: str) -> str | None:
    """Its URL below CLIPFLOW_STORE, where pipelines put it: a place named by its content."""
    store = os.environ.get("CLIPFLOW_STORE")
    if not store:
        return None
    url = f"{store.rstrip('/')}/{kind}/{digest}"
    try:
        return url if manifest.MANIFEST in Objects(url).sizes() else None
    except StoreError:
        return None
