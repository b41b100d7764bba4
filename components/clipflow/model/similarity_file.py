"""The similarity in a checkpoint: what kind it is, its sizes, and its weights, in one file.

A checkpoint without the file is compared by its towers' own embeddings and the dot product.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clipflow.errors import ArtifactError
from clipflow.model.codebook import Codebook
from clipflow.model.similarity import Similarity
from clipflow.model.token_wise import TokenWise

FILE = "similarity.safetensors"
"""In a checkpoint's folder, beside the towers' weights."""
KINDS: dict[str, type[Codebook | TokenWise]] = {kind.kind: kind for kind in (Codebook, TokenWise)}


def write(folder: Path, similarity: Similarity, weights: dict[str, Tensor]) -> None:
    """Save it; `weights` are its own, whole."""
    facts = {"kind": similarity.kind, **{k: str(size) for k, size in similarity.sizes.items()}}
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(contiguous, folder / FILE, metadata=facts)


def read(folder: Path) -> Similarity | None:
    """The similarity of the checkpoint in a folder. Raises ArtifactError if it is damaged or unknown."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            sizes = dict(file.metadata() or {})
        kind = sizes.pop("kind", "none")
        if kind not in KINDS:
            raise ArtifactError(
                f"{path}: expected a similarity of kind {' or '.join(KINDS)}, found '{kind}';"
                " install the version of clipflow that made the checkpoint"
            )
        found = KINDS[kind](**{name: int(size) for name, size in sizes.items()})
        found.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"{path}: damaged ({reason}); make it again with 'clipflow pretrain'"
        ) from None
    return found.eval().requires_grad_(False)
