"""A checkpoint says by which packages it was trained, or that nobody noted it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipflow.artifacts import checkpoint


@pytest.mark.parametrize(
    ("noted", "torch"), [({"packages": {"torch": "2.15.0+cu130"}}, "2.15.0+cu130"), ({}, None)]
)
def test_versions(tmp_path: Path, noted: dict[str, object], torch: str | None) -> None:
    (tmp_path / checkpoint.PROVENANCE).write_text(json.dumps(noted))
    found = checkpoint.versions(tmp_path)
    assert list(found) == list(checkpoint.PACKAGES)
    assert found["torch"] == torch
    assert found["numpy"] is None
