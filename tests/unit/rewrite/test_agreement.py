import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from clipflow.errors import GeneratorError
from clipflow.rewrite import agreement

TEXTS = ["a dog on a beach", "a dog", "", "cats"]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder with random weights, with its tokenizer in one folder."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "beach", "cats"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


def test_the_weights_of_wordllama_come_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    handlers = list(logging.getLogger().handlers)
    embed = agreement.load("wordllama")
    assert logging.getLogger().handlers == handlers
    found = agreement.cosines(
        embed,
        ["a dog runs on the beach"] * 4,
        ["a dog runs on the beach", "a puppy is running by the sea", "the stock market fell", ""],
    )
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[0] > found[1] > found[2]
    assert found[3] == 0


def test_a_transformer_is_the_mean_of_its_tokens(tiny_bert: Path) -> None:
    embed = agreement.load(str(tiny_bert))
    rows = embed(TEXTS)
    assert rows.shape == (4, 16)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    alone = np.concatenate([embed([text]) for text in TEXTS])
    assert alone == pytest.approx(rows, abs=1e-5)  # whatever the padding
    model = BertModel.from_pretrained(tiny_bert).eval()
    with torch.no_grad():
        hidden = model(torch.tensor([[2, 5, 6, 3]])).last_hidden_state[0].mean(0).numpy()
    assert rows[1] == pytest.approx(hidden / np.linalg.norm(hidden), abs=1e-5)


def test_long_texts_are_cut(tiny_bert: Path) -> None:
    embed = agreement.load(str(tiny_bert))
    assert embed(["dog " * 500]) == pytest.approx(embed(["dog " * 10]), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("wordllama", "wordllama", "agreement"), ("x", "torch", "train")]
)
def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(GeneratorError, match=rf"{package}.*pip install 'clipflow\[{extra}\]'"):
        agreement.load(name)


def test_a_folder_that_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="expected wordllama, or"):
        agreement.load(str(tmp_path))
