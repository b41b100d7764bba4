"""A captioner of a few thousand weights, in the files of a real one."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

WORDS = [
    "a",
    "the",
    "photo",
    "of",
    "dog",
    "cat",
    "boat",
    "house",
    "red",
    "blue",
    "on",
    "at",
    "night",
]


def make_blip(folder: Path) -> Path:
    """A BLIP with random weights, and a processor whose tokenizer knows `WORDS`."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[DEC]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]", bos_token="[DEC]",
    )  # fmt: skip
    image_processor = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(image_processor, fast).save_pretrained(folder)
    torch.manual_seed(0)
    tower = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "initializer_range": 0.5,
    }  # fmt: skip
    ids = {"bos_token_id": 4, "pad_token_id": 0, "sep_token_id": 2, "eos_token_id": 2}
    config = BlipConfig(
        text_config={"vocab_size": len(vocabulary), "encoder_hidden_size": 16,
                     "max_position_embeddings": 64, "projection_dim": 16, **ids, **tower},
        vision_config={"image_size": 16, "patch_size": 8, "projection_dim": 16, **tower},
        projection_dim=16, image_text_hidden_size=16,
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(folder)
    return folder
