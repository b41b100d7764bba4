"""Parameters of the evaluate stage: `evaluate:` in params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipflow.catalogue import Section
from clipflow.evaluate.corruptions import Corruption

Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
Severity = Annotated[int, Field(ge=1, le=5)]


class Pairs(Section):
    """Images with a right and a wrong caption each."""

    pairs: str
    """JSON file of SugarCrepe's or ARO's form; a path or s3:// URL."""
    images: str
    """Folder with its images; a path or s3:// URL."""


class FewShot(Section):
    """Linear probes on a few examples per class."""

    shots: list[Annotated[int, Field(ge=1)]]
    """Numbers of examples per class; [] skips it."""
    draws: int = Field(ge=1)
    """How often the examples are drawn anew, for mean and spread."""


class Robustness(Section):
    """Zero-shot on images made worse on the fly (Hendrycks and Dietterich 2019)."""

    corruptions: list[Corruption]
    """Kinds of corruption; [] skips it. Each costs an embedding of the test images per severity."""
    severities: list[Severity] = Field(min_length=1)
    """Of 1 to 5."""


class Params(Section):
    """What to measure, and what to show beside it."""

    suites: dict[Name, str | Pairs]
    """More tasks by name: a folder, s3:// or https:// URL in CLIP-benchmark's layout, a folder of class
    folders, or {pairs: JSON, images: FOLDER}."""
    templates: Literal["simple", "openai"] | None
    """Prompts of every classification task: `simple` are 7 (LaCLIP's for CC3M, CC12M and RedCaps),
    `openai` 80 (LaCLIP's for LAION); null: each task's own."""
    batch_size: int = Field(ge=1)
    """Images or texts embedded at once; changes speed and memory, not results."""
    precision: Literal["fp32", "bf16", "auto"]
    """In which embeddings are computed; auto: bf16 on GPUs, else fp32."""
    recall_at: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """The k of retrieval R@k, both ways."""
    probe_c: list[Annotated[float, Field(gt=0)]]
    """Inverse regularisation strengths (C) that the linear probe chooses from; [] skips it."""
    probe_halvings: int = Field(ge=0)
    """How often the sweep is refined around the best C; CLIP's has [1e-6, 1e-4 ... 1e6] and 4."""
    few_shot: FewShot
    robustness: Robustness
    out_of_distribution: dict[Name, list[Name]]
    """By task, the tasks whose images are of none of its classes, to be told from its own."""
    gallery_size: int = Field(ge=0)
    """Retrieval queries, confident mistakes and rewritten captions shown in the report, each."""
    seed: int = Field(ge=0)
    """Seed of the gallery's and of the few shots' draws."""
    champion: str
    """Registered model whose `@champion`, if there is one, the report is compared with."""
