"""Put the images of `make push` into rendered manifests.

    kubectl kustomize k8s/overlays/prod | python k8s/pin.py images.json | kubectl apply -f -

The production overlay has digests of zeros where images.json has `{"cpu": "REGISTRY/...@sha256:...", ...}`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

UNSET = re.compile(r"clipflow-(\w+)@sha256:0{64}")
PINNED = re.compile(r"\S+@sha256:[0-9a-f]{64}")


def pin(manifests: str, digests: Path) -> str:
    """The manifests with every image set. Raises SystemExit with one line if one is not known."""
    try:
        images = json.loads(digests.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{digests}: {error}; 'make push REGISTRY=...' writes it") from None

    def known(found: re.Match[str]) -> str:
        image = str(images.get(found[1]))
        if not PINNED.fullmatch(image):
            raise SystemExit(
                f"{digests}: {found[1]}: expected an image with its digest (NAME@sha256:...),"
                f" got {image}; 'make push REGISTRY=...' writes it"
            )
        return image

    return UNSET.sub(known, manifests)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: kubectl kustomize FOLDER | python k8s/pin.py images.json")
    sys.stdout.write(pin(sys.stdin.read(), Path(sys.argv[1])))
