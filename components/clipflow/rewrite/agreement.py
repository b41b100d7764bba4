"""Agreement: how close in meaning a rewrite is to its caption, by sentence embeddings."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipflow.errors import GeneratorError

Embed = Callable[[list[str]], NDArray[np.float32]]
"""One row of length 1 per text (of length 0 if there is nothing in it)."""

WORDLLAMA = "wordllama"
BATCH_SIZE = 64


def load(name: str) -> Embed:
    """`wordllama`, or a transformers text encoder by name or folder with the mean of its tokens.

    Raises GeneratorError if that can't be loaded.
    """
    return _wordllama() if name == WORDLLAMA else _transformer(name)


def cosines(embed: Embed, texts: list[str], others: list[str]) -> NDArray[np.float32]:
    """The cosine of each text and the other of its place."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys([*texts, *others]))}
    rows = embed(list(distinct))
    left, right = ([distinct[text] for text in side] for side in (texts, others))
    found: NDArray[np.float32] = (rows[left] * rows[right]).sum(axis=1)
    return found


def _wordllama() -> Embed:
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # or importing it would send the log of every library to the terminal
    try:
        package = importlib.import_module("wordllama")
    except ImportError as error:
        raise GeneratorError(
            f"rewrite.agreement: wordllama needs the package '{error.name}': pip install"
            " 'clipflow[agreement]', or set rewrite.agreement to null"
        ) from None
    finally:
        root.removeHandler(handler)
    # It looks for its tokenizer beside its weights only if its folder is said to be the cache.
    folder = Path(str(package.__file__)).parent
    model = package.WordLlama.load(cache_dir=folder, disable_download=True)
    return lambda texts: _of_length_one(model.embed(texts, batch_size=BATCH_SIZE))


def _transformer(name: str) -> Embed:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise GeneratorError(
            f"rewrite.agreement: '{name}' needs the package '{error.name}': pip install"
            " 'clipflow[train]', or set rewrite.agreement to wordllama or null"
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModel.from_pretrained(name).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        first = " ".join(str(error).split())[:200]
        raise GeneratorError(
            f"rewrite.agreement: can't load '{name}' as a text encoder ({first}); expected wordllama, or"
            " name or folder of a transformers encoder with its tokenizer"
        ) from None
    longest = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)

    def embed(texts: list[str]) -> NDArray[np.float32]:
        rows = []
        for first in range(0, len(texts), BATCH_SIZE):
            tokens = tokenizer(
                texts[first : first + BATCH_SIZE],
                padding=True, truncation=True, max_length=longest, return_tensors="pt",
            ).to(device)  # fmt: skip
            with torch.inference_mode():
                hidden = model(**tokens).last_hidden_state.float()
            mask = tokens.attention_mask.unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows.append(mean.cpu().numpy())
        return _of_length_one(np.concatenate(rows))

    return embed


def _of_length_one(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float32] = rows / np.maximum(lengths, 1e-12)
    return found
