"""What is measured: a checkpoint of ours with its lineage, or any model by folder or name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest


@dataclass(frozen=True)
class Subject:
    """A model and what is known of its training."""

    name: str
    """The recipe, or what the model was loaded by."""
    digest: str
    """Of the checkpoint's manifest, or of the weights."""
    num_parameters: int
    logit_scale: float
    """What cosine similarities are multiplied by before the softmax (1 / temperature)."""
    architecture: str | None = None
    steps: int | None = None
    batch_size: int | None = None
    run_id: str | None = None
    """The MLflow run that trained it."""
    folder: Path | None = None
    """A checkpoint of ours."""

    @classmethod
    def of(cls, checkpoint: Path, **model: Any) -> Subject:
        """model: `num_parameters` and `logit_scale`, and for models that aren't ours `digest`."""
        if not is_ours(checkpoint):
            return cls(str(checkpoint), **model)
        facts = checkpoints.read(checkpoint)
        return cls(
            str(facts["recipe"]),
            **model | {"digest": manifest.digest(checkpoint)},
            architecture=str(facts["architecture"]),
            steps=facts["params"]["steps"],
            batch_size=facts["params"]["batch_size"],
            run_id=checkpoints.provenance(checkpoint)["mlflow_run_id"],
            folder=checkpoint,
        )

    @property
    def title(self) -> str:
        """`laclip on ViT-B-16`, or the model's name."""
        return f"{self.name} on {self.architecture}" if self.architecture else self.name

    def file(self, name: str) -> Path | None:
        """A file of the checkpoint, where there is one."""
        path = self.folder / name if self.folder else None
        return path if path and path.is_file() else None

    def as_json(self) -> dict[str, Any]:
        """What `of` can't know without loading the model."""
        known = dataclasses.asdict(self)
        return {name: known[name] for name in ("digest", "num_parameters", "logit_scale")}


def is_ours(checkpoint: Path) -> bool:
    """Whether it is a folder that pretrain wrote, or that claims to be."""
    return (checkpoint / manifest.MANIFEST).is_file()
