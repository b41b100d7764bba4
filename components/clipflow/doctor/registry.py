"""Whether images can be pulled: their registry is asked for the manifest, as anybody.

A registry that asks for an account is not checked, for the nodes' credentials are not ours.
"""

from __future__ import annotations

import re

import requests  # type: ignore[import-untyped]

from clipflow.findings import Finding, ok, problem, unchecked
from clipflow.image import pinned

TIMEOUT_S = 10
DOCKER_HUB = "registry-1.docker.io"
KINDS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
PUSH = "make push REGISTRY=... and submit with the images.json that it writes"


def pullable(image: str) -> Finding:
    """Whether an image is where its name says."""
    what = f"Image {image}"
    registry, repository, reference = _parts(image)
    if not registry:
        load = f"load it into every node (kind load docker-image {image}), or {PUSH}"
        return unchecked(what, "a local name, which no registry has", load)
    scheme = "http" if registry.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{registry}/v2/{repository}/manifests/{reference}"
    try:
        answer = _ask(url, {})
        if answer.status_code == 401 and (token := _anonymous_token(answer)):
            answer = _ask(url, {"Authorization": f"Bearer {token}"})
    except requests.RequestException as error:
        reason = " ".join(str(error).split())[:160]
        return problem(
            what, f"no answer from {registry} ({reason})", "check the name, or the network"
        )
    if answer.status_code in (401, 403):
        secret = "pods need a pull secret: kubectl create secret docker-registry, in the accounts'"
        return unchecked(what, "private registry", f"{secret} imagePullSecrets")
    if answer.status_code == 404:
        return problem(what, f"{registry} doesn't have it", PUSH)
    if not answer.ok:
        return problem(what, f"{registry} answered {answer.status_code}", "try again later")
    if not pinned(image):
        return problem(what, "is there, but named by a tag, which may change", PUSH)
    return ok(what, "can be pulled")


def _parts(image: str) -> tuple[str, str, str]:
    """Registry, repository, and tag or digest; no registry if the name is one of this machine only."""
    name, _, digest = image.partition("@")
    first, slash, rest = name.partition("/")
    if not slash:
        return "", name, digest
    is_host = "." in first or ":" in first or first == "localhost"
    registry, path = (first, rest) if is_host else (DOCKER_HUB, name)
    path, _, tag = path.partition(":")
    registry = DOCKER_HUB if registry in ("docker.io", "index.docker.io") else registry
    return registry, path, digest or tag or "latest"


def _ask(url: str, headers: dict[str, str]) -> requests.Response:
    return requests.head(
        url, headers={"Accept": KINDS} | headers, timeout=TIMEOUT_S, allow_redirects=True
    )


def _anonymous_token(answer: requests.Response) -> str | None:
    """A token for reading, if the registry gives one to anybody."""
    challenge = dict(CHALLENGE.findall(answer.headers.get("WWW-Authenticate", "")))
    realm = challenge.pop("realm", None)
    if not realm or not answer.headers["WWW-Authenticate"].startswith("Bearer"):
        return None
    given = requests.get(realm, params=challenge, timeout=TIMEOUT_S)
    if not given.ok:
        return None
    return str(given.json().get("token") or given.json().get("access_token"))
