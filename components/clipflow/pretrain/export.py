"""Writing a checkpoint: weights and config as open_clip reads them, and what they came from."""

from __future__ import annotations

import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from torch import Tensor

from clipflow.artifacts import checkpoint, manifest
from clipflow.model import similarity_file
from clipflow.model.similarity import Similarity
from clipflow.model.towers import Towers
from clipflow.pretrain.params import Params
from clipflow.pretrain.resume import State
from clipflow.pretrain.samples import Samples

NUM_EXAMPLES = 12


def write(
    folder: Path,
    params: Params,
    towers: Towers,
    weights: dict[str, Tensor],
    samples: Samples,
    state: State,
    lineage: dict[str, str],
    data: dict[str, Any],
    similarity: tuple[Similarity, dict[str, Tensor]] | None = None,
) -> None:
    """Fill the folder of a `checkpoint` artifact.

    `weights` are those of `towers.clip`, whole; `similarity` comes with its own.
    """
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(contiguous, folder / checkpoint.WEIGHTS)
    manifest.write_json(folder / checkpoint.CONFIG, towers.config)
    files, more = [checkpoint.WEIGHTS, checkpoint.CONFIG], dict[str, str]()
    if similarity:
        similarity_file.write(folder, *similarity)
        files, more = [*files, checkpoint.SIMILARITY], {"similarity": similarity[0].kind}
    if hasattr(towers.tokenizer, "tokenizer") and hasattr(
        towers.tokenizer.tokenizer, "save_pretrained"
    ):
        towers.tokenizer.tokenizer.save_pretrained(folder)
    pq.write_table(pa.Table.from_pylist(state.history), folder / checkpoint.HISTORY)
    pq.write_table(_examples(samples, params.seed), folder / checkpoint.EXAMPLES)
    manifest.write_json(
        folder / checkpoint.PROVENANCE,
        {
            **lineage,
            "mlflow_run_id": state.mlflow_run_id,
            checkpoint.VERSIONS: {name: version(name) for name in checkpoint.PACKAGES},
        },
    )
    manifest.write(
        folder,
        checkpoint.SCHEMA,
        recipe=params.recipe.name,
        recipe_source=params.recipe.source(),
        architecture=params.architecture,
        num_parameters=sum(parameters.numel() for parameters in towers.parameters()),
        data=data,
        params=params.model_dump(mode="json"),
        inputs={
            name: digest
            for name, digest in lineage.items()
            if name.endswith("_digest") and name != "image_digest"
        },
        sha256={name: manifest.file_digest(folder / name) for name in files},
        **more,
    )


def _examples(samples: Samples, seed: int) -> pa.Table:
    rows = random.Random(seed).sample(range(len(samples)), min(NUM_EXAMPLES, len(samples)))
    captions, rewrites = zip(*(samples.texts(row) for row in rows), strict=True)
    return pa.table(
        {
            "key": [samples.key(row) for row in rows],
            "image": [samples.image(row) for row in rows],
            "caption": list(captions),
            "rewrites": pa.array(rewrites, pa.list_(pa.string())),
        }
    )
