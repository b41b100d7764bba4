"""What evaluating a checkpoint gave, and its metrics by their full names."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import fmean

from clipflow.evaluate.retrieval import Retrieval
from clipflow.evaluate.zero_shot import Classification


@dataclass(frozen=True)
class Model:
    """What the page says of the model itself."""

    num_parameters: int
    logit_scale: float
    """What cosine similarities are multiplied by before the softmax (1 / temperature)."""


@dataclass(frozen=True)
class Results:
    """The results of all tasks, filled task by task."""

    classifications: list[Classification] = field(default_factory=list)
    retrievals: list[Retrieval] = field(default_factory=list)
    probes: dict[str, float] = field(default_factory=dict)
    """Linear-probe accuracy by task."""

    def metrics(self) -> dict[str, float]:
        """Every metric as `<kind>/<task>/<metric>`, and `<kind>/mean/<metric>` over tasks with it.

        `retrieval/mean/recall_at_k` is the mean over tasks and over both ways.
        """
        found = {f"linear_probe/{task}/top1": accuracy for task, accuracy in self.probes.items()}
        for c in self.classifications:
            found |= {f"zero_shot/{c.task}/{name}": value for name, value in c.metrics.items()}
        for r in self.retrievals:
            found |= {f"retrieval/{r.task}/{name}": value for name, value in r.metrics.items()}
        by_mean = defaultdict(list)
        for name, value in found.items():
            kind, _, *_, metric = name.split("/")
            by_mean[f"{kind}/mean/{metric}"].append(value)
        return found | {name: fmean(values) for name, values in by_mean.items()}
