"""Models that transformers loads: from where, on which device, and what is wrong where one doesn't load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from clipflow.errors import GeneratorError

Precision = Literal["auto", "float32", "bfloat16", "float16"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
WEIGHTS = {".safetensors", ".bin", ".pt"}
DESCRIPTIONS = {".json", ".model", ".txt", ".jinja", ".spm"}
"""Configuration, tokenizer, chat template: small files, of which every byte counts."""


def load(
    generator: str,
    model: str,
    revision: str,
    precision: Precision,
    *,
    model_class: str,
    reader_class: str = "AutoTokenizer",
    **reader_options: Any,
) -> tuple[Any, Any]:
    """A model ready to write, on CUDA if there is one, and its tokenizer or processor.

    The classes are named as transformers names them. Raises GeneratorError saying what is missing.
    """
    try:
        import torch
        import transformers
        from safetensors import SafetensorError
    except ImportError as error:
        raise GeneratorError(
            f"generator '{generator}' needs {error.name}: pip install 'clipflow[train]'"
        ) from None
    _check_folder(Path(model))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    auto = "bfloat16" if device == "cuda" else "float32"
    dtype = getattr(torch, auto if precision == "auto" else precision)
    try:
        reader = getattr(transformers, reader_class).from_pretrained(
            model, revision=revision, **reader_options
        )
        loaded = getattr(transformers, model_class).from_pretrained(
            model, revision=revision, dtype=dtype
        )
    except ImportError as error:
        first = " ".join(str(error).split())[:200]
        raise GeneratorError(
            f"{model}: needs a package that is not installed ({first}); install it and run this again"
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise GeneratorError(_cannot_load(model, revision, error)) from None
    return loaded.to(device).eval(), reader


@contextmanager
def within_memory(generator: str, batch_size: int) -> Iterator[None]:
    """Says which param to lower where the device's memory doesn't do."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise GeneratorError(
            f"generator '{generator}': out of memory with batch_size {batch_size};"
            f" lower generators.{generator}.batch_size"
        ) from None


def fingerprint(model: str) -> str:
    """Changes with the model in a folder; empty for a named model, which its revision identifies.

    Of weights only names and sizes count: they may be hundreds of GB.
    """
    folder = Path(model)
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in WEIGHTS | DESCRIPTIONS:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        if file.suffix in DESCRIPTIONS:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file():
        raise GeneratorError(
            f"{folder}: expected a transformers model, no config.json there; pass the folder that"
            " save_pretrained() wrote"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise GeneratorError(
            f"{folder}: no tokenizer there, expected {' or '.join(TOKENIZER_FILES)}; save it with"
            " save_pretrained() into the same folder"
        )


def _cannot_load(model: str, revision: str, error: Exception) -> str:
    first = " ".join(str(error).split())[:200]
    if Path(model).is_dir():
        return f"{model}: can't load the model in this folder ({first})"
    return (
        f"no network or unknown model '{model}' (revision '{revision}'): pass a"
        f" local folder, or set HF_HOME to a cache that has it ({first})"
    )
