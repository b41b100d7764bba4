"""register: a checkpoint and its report become a version in MLflow's model registry.

The version is always `@challenger`; it is `@champion` as long as the gate says so, and the champion before
it is `@previous`. Registering the same checkpoint and report again finds the version there is, and compares
it with the same rival. One that was rolled back stays so.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import registration as registrations
from clipflow.artifacts import report as reports
from clipflow.errors import ArtifactError
from clipflow.register import card, gate, logged_model
from clipflow.register.params import Params
from clipflow.track import dvc_lock, files

logger = logging.getLogger(__name__)

RIVAL = "rival"
"""Version tag: the champion that this version was compared with, or `none`."""


def run(params: Params, *, checkpoint: Path, report: Path, registration: Path) -> None:
    """Register the checkpoint, settle the aliases, and write what was decided and why.

    A closed gate is a result. Raises ArtifactError, ParamsError or TrackingError.
    """
    facts = checkpoints.read(checkpoint)
    if kind := facts.get("similarity"):
        raise ArtifactError(
            f"{checkpoint}: recipe '{facts['recipe']}' compares images with texts by '{kind}', and what is"
            " registered is served by open_clip alone, which compares the towers' own embeddings: its"
            " answers would not be this model's; register a checkpoint of another recipe, such as clip"
        )
    metrics = reports.metrics(report)
    gate.decide(metrics, None, params)  # a wrong primary metric is told before anything is logged
    track.connect()
    logger.info(
        "model %s at %s, %s %s, gate on %s",
        params.model,
        track.place(),
        facts["recipe"],
        facts["architecture"],
        params.primary,
    )
    digests = {
        "checkpoint_digest": manifest.digest(checkpoint),
        "report_digest": manifest.digest(report),
        track.BENCHMARKS: reports.benchmarks(report),
    }
    with track.refusals():
        version = track.registered(params.model, digests) or _new(
            params.model, checkpoint, metrics, facts, digests
        )
        rival = _rival(params.model, version)
        champion = logged_model.metrics(rival) if rival else None
        theirs = rival.tags if rival else digests
        measured = theirs.get(track.BENCHMARKS, "unknown")
        decision = gate.decide(
            metrics,
            champion,
            params,
            samples=(reports.samples(report), _samples(rival)),
            elsewhere=measured if measured != digests[track.BENCHMARKS] else None,
            same_checkpoint=theirs.get("checkpoint_digest") == digests["checkpoint_digest"],
        )
        if why := version.tags.get(track.ROLLED_BACK):
            decision = gate.Decision(False, [f"It was rolled back: {why}"])
        aliases = _settle(params.model, version, rival, decision.accepted)
        text = card.render(version, rival, decision, checkpoint=checkpoint, report=report)
        card.publish(version, text)

    with manifest.complete_or_absent(registration) as folder:
        manifest.write_json(
            folder / registrations.REGISTRATION,
            {
                "model": params.model,
                "version": str(version.version),
                "aliases": aliases,
                "accepted": decision.accepted,
                "reasons": decision.reasons,
                "metrics": metrics,
                "champion": {"version": str(rival.version), "metrics": champion} if rival else None,
            },
        )
        manifest.write(
            folder,
            registrations.SCHEMA,
            model=params.model,
            accepted=decision.accepted,
            sha256=manifest.file_digest(folder / registrations.REGISTRATION),
        )
    for reason in decision.reasons:
        logger.info("%s: %s", "accepted" if decision.accepted else "not promoted", reason)
    logger.info(
        "wrote %s: %s version %s, %s",
        registration,
        params.model,
        version.version,
        " ".join(f"@{alias}" for alias in aliases),
    )


def _new(
    model: str,
    checkpoint: Path,
    metrics: dict[str, float],
    facts: dict[str, Any],
    digests: dict[str, str],
) -> Any:
    """A new version, tagged with the lineage key and with the champion it will be compared with."""
    client = track.client()
    if track.look_up(client.get_registered_model, model) is None:
        with track.once():
            client.create_registered_model(model)
    lineage = checkpoints.provenance(checkpoint)
    lineage.pop(checkpoints.VERSIONS, None)
    champion = track.aliased(model, track.CHAMPION)
    with track.reopen(lineage.get("mlflow_run_id"), name=model) as run:
        model_id = logged_model.log(
            checkpoint,
            run.id,
            name=model,
            metrics=metrics,
            step=facts["params"]["steps"],
            tags=digests,
        )
        tags = {
            **{key: str(value) for key, value in lineage.items()},
            **digests,
            **dvc_lock.tags(lineage | digests),
            "mlflow_run_id": run.id,
            "recipe": str(facts["recipe"]),
            "architecture": str(facts["architecture"]),
            RIVAL: str(champion.version) if champion else "none",
        }
        run.tag({"registered_model": model})
    # MLflow looks the model up itself.
    with track.once(), track.environment(MLFLOW_TRACKING_URI=track.uri()):
        return client.create_model_version(
            model, source=f"models:/{model_id}", run_id=run.id, tags=tags, model_id=model_id
        )


def _rival(model: str, version: Any) -> Any:
    """The champion to compare with: the present one or, if that is this version, the one before."""
    champion = track.aliased(model, track.CHAMPION)
    if champion is None or str(champion.version) != str(version.version):
        return champion
    number = version.tags[RIVAL]
    return (
        None if number == "none" else track.look_up(track.client().get_model_version, model, number)
    )


def _samples(rival: Any) -> dict[str, Any]:
    """The rival's values per sample, as long as its run still has the report that it was judged by."""
    if rival is None:
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = files.report(rival.run_id, reports.OF_SAMPLES, Path(name))
        if folder and manifest.digest(folder) == rival.tags.get("report_digest"):
            return dict(reports.samples(folder))
    logger.warning(
        "version %s: its run has another report by now: metrics are compared by points alone",
        rival.version,
    )
    return {}


def _settle(model: str, version: Any, rival: Any, accepted: bool) -> list[str]:
    """Point the aliases as the gate says; return this version's."""
    track.client().set_registered_model_alias(model, track.CHALLENGER, version.version)
    if accepted or rival:
        track.promote(version if accepted else rival)
    return [track.CHALLENGER, track.CHAMPION] if accepted else [track.CHALLENGER]
