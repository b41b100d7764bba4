import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from clipflow.errors import GeneratorError
from clipflow.rewrite.generators import Answer, Task, Usage
from clipflow.rewrite.generators.backtranslate import BackTranslate

TEXTS = [
    "a dog on a beach",
    "two boats in a harbor at night",
    "a cat",
    "a bird above a small house",
]


def make_model(folder: Path, seed: int) -> Path:
    """A tiny Marian with random weights and a tokenizer of its own, in the folder."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=64,
    )  # fmt: skip
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=len(fast), d_model=16, encoder_layers=1, decoder_layers=1, init_std=0.5,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=64, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        forced_eos_token_id=None,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    root = tmp_path_factory.mktemp("marian")
    names = [["en-es", "es-en"], ["en-fr", "fr-en"]]
    return [
        [str(make_model(root / name, 2 * i + j)) for j, name in enumerate(pair)]
        for i, pair in enumerate(names)
    ]


def backtranslate(folders: list[list[str]], **changed: Any) -> BackTranslate:
    fields = {
        "name": "backtranslate",
        "models": folders,
        "batch_size": 3,
        "num_beams": 2,
        "max_new_tokens": 12,
        "precision": "float32",
    }
    return BackTranslate(**{**fields, **changed})


TASKS = [Task(text, first, 1, 7) for text in TEXTS[:3] for first in range(3)]


def by_task(generator: BackTranslate, tasks: list[Task]) -> dict[Task, Answer]:
    return {answer.task: answer for some in generator.propose(tasks) for answer in some}


def test_every_task_goes_through_its_pair(folders: list[list[str]]) -> None:
    answers = by_task(backtranslate(folders), TASKS)
    assert set(answers) == set(TASKS)
    for task, answer in answers.items():
        (proposal,) = answer.proposals
        assert proposal.source == f"back-translation {['en-es', 'en-fr'][task.first % 2]}"
    for text in TEXTS[:3]:
        first, second, third = (answers[Task(text, i, 1, 7)].proposals for i in range(3))
        assert first == third
        assert first != second


def test_the_text_is_what_the_two_models_write(folders: list[list[str]]) -> None:
    """One by one, through transformers alone."""
    for task, answer in by_task(backtranslate(folders, batch_size=64), TASKS).items():
        text, is_cut = task.caption, False
        usage = Usage()
        for folder in folders[task.first % 2]:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            (output,) = MarianMTModel.from_pretrained(folder).generate(
                **inputs, num_beams=2, max_length=None, max_new_tokens=12
            )
            text = " ".join(tokenizer.decode(output, skip_special_tokens=True).split())
            is_cut |= 1 not in output
            num_written = output.tolist().index(1) if 1 in output else len(output) - 1
            usage += Usage(inputs.input_ids.shape[1], num_written)
        assert answer.proposals == [
            (text, answer.proposals[0].source, "cut off" if is_cut else None)
        ]
        assert answer.usage == usage


def test_batches_change_nothing(folders: list[list[str]]) -> None:
    one_by_one = by_task(backtranslate(folders, batch_size=1), TASKS)
    assert by_task(backtranslate(folders, batch_size=64), TASKS[::-1]) == one_by_one


def test_a_caption_longer_than_the_model_reads_is_cut_off(folders: list[list[str]]) -> None:
    task = Task("boat " * 200, 0, 1, 0)
    assert [p.problem for p in by_task(backtranslate(folders), [task])[task].proposals] == [
        "cut off"
    ]


def test_identity_changes_with_the_models(folders: list[list[str]], tmp_path: Path) -> None:
    pair = [str(make_model(tmp_path / name, 0)) for name in ("there", "back")]
    before = backtranslate([pair]).identity()
    assert backtranslate([pair], batch_size=5).identity() == before
    assert backtranslate([pair[::-1]]).identity() != before
    (tmp_path / "back" / "model.safetensors").write_bytes(b"another")
    assert backtranslate([pair]).identity() != before


def test_a_model_that_is_not_there(folders: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"no config\.json there"):
        list(backtranslate([[folders[0][0], str(tmp_path)]]).propose(TASKS))


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_opus_mts_own_tokenizers(tmp_path: Path) -> None:
    """Marian models come with two sentencepiece models and a vocabulary, and no tokenizer.json."""
    folder = make_model(tmp_path / "marian", 0)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS * 3))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "source"), vocab_size=28, minloglevel=2
    )
    (folder / "source.model").rename(folder / "source.spm")
    shutil.copy(folder / "source.spm", folder / "target.spm")
    pieces = (folder / "source.vocab").read_text().splitlines()
    words = ["<pad>", "</s>", "<unk>", *(line.split("\t")[0] for line in pieces[3:])]
    words += [f"word{n}" for n in range(120)]  # as many as the model can write
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "es"}'
    )
    answers = by_task(backtranslate([[str(folder), str(folder)]]), TASKS[:3])
    assert set(answers) == set(TASKS[:3])
