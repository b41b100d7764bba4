"""How every drill ends: its result in a file and on the screen, and exit status 1 if anything was lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def end(result: Mapping[str, Any], out: Path, *, not_shown: str = "") -> None:
    """Write the result to `out` and print it without the entry `not_shown`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != not_shown}, indent=2))
    if result["lost"]:
        raise SystemExit(1)
