"""Push the images of `make images`, and write their names by digest to images.json.

    python k8s/push.py docker dev ghcr.io/acme
    python k8s/push.py podman dev localhost:5000 --tls-verify=false

The words are the engine, the tag that the images have here, and the registry; what follows goes to the
engine's `push`. In the registry the tag is the commit that was built. A name by digest can't come to mean
another image.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DIGESTS = Path("images.json")
TARGETS = ("cpu", "gpu")
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
REVISION = '{{ index .Config.Labels "org.opencontainers.image.revision" }}'


def push(engine: str, tag: str, registry: str, flags: list[str]) -> dict[str, str]:
    """Push both images; return their names by digest. Raises SystemExit with one line."""
    commits = {target: revision(engine, f"clipflow-{target}:{tag}") for target in TARGETS}
    if len(set(commits.values())) > 1:
        raise SystemExit(
            f"images of different commits, {commits}; run 'make images' and push again"
        )
    names = {}
    for target, commit in commits.items():
        name = f"{registry.rstrip('/')}/clipflow-{target}"
        run(engine, "tag", f"clipflow-{target}:{tag}", f"{name}:{commit}")
        names[target] = f"{name}@{_push(engine, f'{name}:{commit}', flags)}"
    return names


def revision(engine: str, image: str) -> str:
    """The commit from which an image was built."""
    found = run(engine, "image", "inspect", "--format", REVISION, image).strip()
    if not COMMIT.fullmatch(found):
        raise SystemExit(
            f"{image}: expected an image built from a commit, got revision '{found}'; commit your"
            " changes, run 'make images' and push again"
        )
    return found


def run(*command: str) -> str:
    """The output of a command. Raises SystemExit with its last line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{command[0]}: {error.strerror}; set ENGINE=docker or podman") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SystemExit(f"'{' '.join(command)}' failed: {said}")
    return done.stdout


def _push(engine: str, name: str, flags: list[str]) -> str:
    """Push; return the digest by which the registry has it."""
    if "--digestfile" in run(engine, "push", "--help"):  # podman's images have local digests too
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "digest"
            run(engine, "push", *flags, "--digestfile", str(file), name)
            said = file.read_text(encoding="utf-8")
    else:
        said = run(engine, "push", *flags, name)
    if found := DIGEST.search(said):
        return found[0]
    raise SystemExit(f"{name}: pushed, but '{engine} push' named no digest: {said[-200:]}")


def main(arguments: list[str]) -> None:
    """Push, and write images.json aside first, so that it is whole or the one before."""
    if len(arguments) < 3 or arguments[2].startswith("-"):
        raise SystemExit("no registry to push to; make push REGISTRY=registry.example.org/team")
    engine, tag, registry, *flags = arguments
    names = push(engine, tag, registry, flags)
    aside = DIGESTS.with_name(f"{DIGESTS.name}.{os.getpid()}")
    aside.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
    aside.replace(DIGESTS)
    sys.stdout.write("".join(f"{name}\n" for name in names.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
