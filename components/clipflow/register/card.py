"""The model card: what a version is, from the facts that its artifacts hold and from nothing else.

Sections: Mitchell et al. 2019, *Model Cards for Model Reporting* (arXiv:1810.03993).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import report as reports
from clipflow.params import flattened
from clipflow.register.gate import Decision
from clipflow.track import files

FILE = "README.md"
"""Among the files of the model behind a version."""
TEMPLATE = "card.md"
MAX_DESCRIPTION = 5000
"""Characters that MLflow's database takes; SQLite would take more, Postgres refuses."""
KINDS = {"zero_shot": "zero-shot classification", "retrieval": "retrieval"}
KINDS |= {"linear_probe": "linear probe"}
LINEAGE = {
    "git_sha": "Git commit",
    "image_digest": "image",
    "kfp_run_id": "Kubeflow run",
    "mlflow_run_id": "MLflow run",
    "checkpoint_digest": "digest of the checkpoint",
    "report_digest": "digest of the report",
}
SHOWN = (
    "*/mean/*",
    "zero_shot/*/top1",
    "linear_probe/*/top1",
    "retrieval/*/recall_at_1",
    "compositional/*",
)
"""Metrics of a card; the report has all."""


def render(version: Any, rival: Any, decision: Decision, *, checkpoint: Path, report: Path) -> str:
    """The card of a registered version in Markdown; rival: the version it was compared with, if any."""
    facts, tags = checkpoints.read(checkpoint), dict(version.tags)
    config = json.loads((checkpoint / checkpoints.CONFIG).read_text(encoding="utf-8"))["model_cfg"]
    metrics = reports.metrics(report)
    params = facts["params"]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": _percent, "cell": _cell}
    return environment.get_template(TEMPLATE).render(
        model=version.name,
        version=version.version,
        rival=rival.version if rival else None,
        decision=decision,
        facts={"recipe_source": None, "num_parameters": None, "data": None} | facts,
        tags={"pairs_digest": "unknown", "rewrites_digest": "unknown"} | tags,
        embed_dim=config.get("embed_dim"),
        image_size=config.get("vision_cfg", {}).get("image_size"),
        context_length=config.get("text_cfg", {}).get("context_length"),
        samples_seen=params["steps"] * params["batch_size"] if "batch_size" in params else None,
        metrics={name: value for name, value in sorted(metrics.items()) if _is_shown(name)},
        intervals=reports.intervals(report),
        measured=_measured(metrics),
        lineage={title: tags[key] for key, title in LINEAGE.items() if key in tags},
        params=flattened(params),
    )


def _is_shown(name: str) -> bool:
    return name.split("/")[0] != "embeddings" and any(fnmatchcase(name, one) for one in SHOWN)


def publish(version: Any, card: str) -> None:
    """Make the card the version's description, and a file of the model behind it; twice is once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        file.write_text(card, encoding="utf-8")
        files.add_model_file(version, file)
    description = shortened(card)
    if version.description != description:
        track.client().update_model_version(version.name, version.version, description)


def shortened(card: str) -> str:
    """The first sections, as many as MLflow takes, and where the rest is."""
    if len(card) <= MAX_DESCRIPTION:
        return card
    rest = f"\n\nThe rest of this card is {FILE} among the model's files.\n"
    head = card[: MAX_DESCRIPTION - len(rest)]
    end = max(head.rfind("\n## "), head.rfind("\n\n"), head.rfind("\n- "), head.rfind("\n|"))
    return head[:end].rstrip() + rest


def _measured(metrics: Mapping[str, float]) -> dict[str, list[str]]:
    """By kind of task, the tasks: `zero_shot/colour/top1` names the task `colour`."""
    found: dict[str, set[str]] = {}
    for name in metrics:
        kind, task, *rest = name.split("/")
        if rest and task != "mean":
            found.setdefault(KINDS.get(kind, kind), set()).add(task)
    return {kind: sorted(tasks) for kind, tasks in sorted(found.items())}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _cell(value: Any) -> str:
    return "null" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
