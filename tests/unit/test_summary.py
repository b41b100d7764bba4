"""What `clipflow summary` says of a registered version, in a real MLflow registry."""

import json
from pathlib import Path

import pytest

from clipflow import track
from clipflow.artifacts import checkpoint, manifest, registration, report
from clipflow.summary import describe


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A checkpoint, a report and a registration, as DVC may have brought them back."""
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / name for name in ("checkpoint", "report", "registration")]
    for folder in folders:
        folder.mkdir()
    for name in (checkpoint.WEIGHTS, checkpoint.CONFIG):
        (folders[0] / name).touch()
    (folders[0] / checkpoint.PROVENANCE).write_text(json.dumps({"mlflow_run_id": "none"}))
    manifest.write(folders[0], checkpoint.SCHEMA, recipe="laclip")
    manifest.write_json(folders[1] / report.METRICS, {"zero_shot/mean/top1": 0.5})
    manifest.write(folders[1], report.SCHEMA)
    decision = {
        "model": "m", "version": "2", "aliases": ["challenger", "champion"], "reasons": ["It gains."]
    }  # fmt: skip
    manifest.write_json(folders[2] / registration.REGISTRATION, decision)
    manifest.write(folders[2], registration.SCHEMA)
    return folders


def add_version(tags: dict[str, str]) -> str:
    return str(track.client().create_model_version("m", source="/m", tags=tags).version)


def test_aliases_are_those_of_now(artifacts: list[Path]) -> None:
    client = track.client()
    client.create_registered_model("m")
    digests = {
        "checkpoint_digest": manifest.digest(artifacts[0]),
        "report_digest": manifest.digest(artifacts[1]),
    }
    for tags in ({}, digests, {}):
        add_version(tags)
    client.set_registered_model_alias("m", "champion", "2")
    text = describe(*artifacts)
    assert "Registered   m version 2 @champion\n" in text
    assert "             It gains.\n" in text
    assert "laclip (this run)         50.0 %" in text

    client.set_registered_model_alias("m", "champion", "3")
    assert "Registered   m version 2 (without an alias now)\n" in describe(*artifacts)


def test_a_version_that_the_registry_lacks_is_said_to_be_gone(artifacts: list[Path]) -> None:
    gone = (
        "Registered   m version 2 is not in this registry any more;"
        " run 'dvc repro --force --single-item register'\n"
    )
    assert gone in describe(*artifacts)

    # A database made anew may have a version of the same number, made of something else.
    track.client().create_registered_model("m")
    assert [add_version({"checkpoint_digest": "0" * 32}) for _ in range(2)] == ["1", "2"]
    assert gone in describe(*artifacts)
