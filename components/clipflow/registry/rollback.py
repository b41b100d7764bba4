"""Taking a champion back."""

from __future__ import annotations

from clipflow import track
from clipflow.errors import TrackingError
from clipflow.track import versions


def run(model: str, why: str) -> str:
    """`@champion` goes to the version that is `@previous`, and `@previous` to the one that was champion.

    That one keeps `why` as a tag, and registering it again doesn't make it champion. Rolling back twice
    undoes it. Returns what was done, in a sentence. Raises TrackingError where there is nothing to go
    back to.
    """
    versions.model_named(model)
    champion, previous = (track.aliased(model, a) for a in (track.CHAMPION, track.PREVIOUS))
    if champion is None:
        raise TrackingError(f"{model}: it has no @champion to take back; run 'clipflow register'")
    if previous is None or previous.version == champion.version:
        found = "it has none" if previous is None else f"version {previous.version} is both"
        raise TrackingError(
            f"{model}: expected @previous, a champion before version {champion.version}, to go back to;"
            f" {found}; set @previous to the version that you mean in MLflow"
        )
    client = track.client()
    with track.refusals():
        client.set_model_version_tag(model, champion.version, track.ROLLED_BACK, why)
        if track.ROLLED_BACK in previous.tags:
            client.delete_model_version_tag(model, previous.version, track.ROLLED_BACK)
        # In this order: interrupted, it has done what matters.
        client.set_registered_model_alias(model, track.CHAMPION, previous.version)
        client.set_registered_model_alias(model, track.PREVIOUS, champion.version)
    return (
        f"{model}: @champion is version {previous.version} again; version {champion.version} is @previous,"
        f" rolled back: {why}"
    )
