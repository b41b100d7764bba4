"""The images of `make images`, run as a cluster may run them: any user, nothing to write to but /tmp."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakes.artifacts import ROOT

ENGINE = os.environ.get("CONTAINER_ENGINE") or "docker"
USER = 54321
"""Nobody in the image, as OpenShift and others choose."""
CONTAINED = (
    "--network=host",
    f"--user={USER}:{USER}",
    "--read-only",
    "--tmpfs=/tmp:rw,mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)


def image(target: str) -> str:
    return f"clipflow-{target}:dev"


def inspect(target: str) -> dict[str, Any]:
    """What the engine knows of an image. Raises AssertionError if there is none."""
    done = subprocess.run(
        [ENGINE, "image", "inspect", image(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"no image {image(target)}; 'make images' builds it"
    return dict(json.loads(done.stdout)[0])


def command(
    target: str,
    *words: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: tuple[str, ...] = CONTAINED,
) -> list[str]:
    """The command line of a container in which `folder` is /work."""
    mount = [f"--volume={folder}:/work", "--workdir=/work"] if folder else []
    variables = [f"--env={name}={value}" for name, value in (environment or {}).items()]
    return [ENGINE, "run", "--rm", *flags, *mount, *variables, image(target), *words]


def run(target: str, *words: str, **options: Any) -> str:
    """Its output. Raises AssertionError with the end of what it said if it fails."""
    done = subprocess.run(command(target, *words, **options), capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def lock() -> dict[str, set[str]]:
    """Versions of requirements.lock by package."""
    pinned: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, _, version = line.partition(";")[0].strip().partition("==")
        pinned.setdefault(name, set()).add(version)
    return pinned
