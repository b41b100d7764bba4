"""`registration`: which model version a report became, under which aliases, and why.

registration/registration.json  model, version, aliases, accepted, reasons
registration/manifest.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest

SCHEMA = "clipflow.registration/1"
REGISTRATION = "registration.json"


def read(folder: Path) -> dict[str, Any]:
    """The contents of `registration.json`. Raises ArtifactError for another kind of folder."""
    manifest.read(folder, SCHEMA)
    return dict(json.loads((folder / REGISTRATION).read_text(encoding="utf-8")))
