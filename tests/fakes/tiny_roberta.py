"""A RoBERTa of two tiny layers with random weights and a tokenizer of its own, as a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def save(folder: Path, texts: Iterable[str], num_positions: int = 40) -> Path:
    """Write the model that `seed 0` makes, always the same, with the tokenizer that the texts make.

    As RoBERTa's own it has the head that it was trained with, and none for whole texts.
    """
    folder.mkdir(parents=True)
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, 320, show_progress=False, special_tokens=SPECIAL)
    vocab, merges = pieces.save_model(str(folder))
    tokenizer = RobertaTokenizer(vocab, merges, model_max_length=num_positions)
    tokenizer.save_pretrained(folder)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=num_positions + 2, type_vocab_size=1,
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    torch.set_rng_state(state)
    return folder
