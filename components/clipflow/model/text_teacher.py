"""A text teacher: a frozen text encoder of transformers, from whose features of texts a recipe learns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clipflow.errors import ParamsError
from clipflow.model.pretrained import UNLOADABLE

BATCH_SIZE = 256
"""Texts read at once."""
MAX_TOKENS = 77
"""Longer texts are cut, as ProtoCLIP's code does."""


class TextTeacher:
    """An encoder that nothing trains.

    It is no `nn.Module`, so that an objective that has one as an attribute doesn't count its weights among
    its own: they are neither optimised, averaged, sharded nor saved.
    """

    def __init__(self, name: str, revision: str, *, where: str) -> None:
        """Load the encoder and its tokenizer from a folder, the local cache or the hub, and try them.

        `where` is the param that `name` is from. Raises ParamsError if they can't be had or read no texts.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        level = logging.get_verbosity()
        logging.set_verbosity_error()  # no report of heads that the files have, or lack, and nobody uses
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision)
            if not set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens):
                raise ValueError("its tokenizer knows no words")
            with torch.random.fork_rng(devices=[]):  # it draws weights that the files don't have
                model, found = AutoModel.from_pretrained(
                    name, revision=revision, dtype=torch.float32, output_loading_info=True
                )
            if lacking := sorted(key for key in found["missing_keys"] if "pooler" not in key):
                raise ValueError(f"its files have no {lacking[0]}")
            self.model: Any = model.eval().requires_grad_(False)
            self([["a text"], ["and a longer one"]], torch.device("cpu"))
        except (*UNLOADABLE, AttributeError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ParamsError(
                f"{where}: '{name}' (revision '{revision}') can't be loaded as a text encoder ({reason});"
                " pass a folder with the model and its tokenizer, or a name that is in HF_HOME or can be"
                " downloaded"
            ) from None
        finally:
            logging.set_verbosity(level)

    @torch.no_grad()
    def __call__(
        self, texts: Sequence[Sequence[str]], device: torch.device
    ) -> Float[Tensor, "batch texts width"]:
        """Unit vectors, float32 on the device, of the same number of texts of each pair.

        A text's is the mean of the last layer's outputs at its tokens, those of its start and end among
        them, padding not.
        """
        flat = list(chain.from_iterable(texts))
        model = self.model.to(device)
        longest = getattr(model.config, "max_position_embeddings", MAX_TOKENS)
        found = []
        for first in range(0, len(flat), BATCH_SIZE):
            tokens = self.tokenizer(
                flat[first : first + BATCH_SIZE], padding=True, truncation=True, return_tensors="pt",
                max_length=min(MAX_TOKENS, longest, self.tokenizer.model_max_length),
            ).to(device)  # fmt: skip
            hidden = model(**tokens).last_hidden_state.float()
            mask = tokens.attention_mask[..., None]
            # The mean but for its length, which is made 1.
            found.append(functional.normalize((hidden * mask).sum(1), dim=-1))
        features: Tensor = torch.cat(found).unflatten(0, (len(texts), -1))
        return features
