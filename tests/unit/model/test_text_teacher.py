"""The text teacher by itself: what its features are, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
from transformers import RobertaModel

from clipflow.errors import ParamsError
from clipflow.model.text_teacher import TextTeacher
from fakes import tiny_roberta

CPU = torch.device("cpu")
WHERE = "recipes.protoclip.text_teacher"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_roberta.save(tmp_path_factory.mktemp("teacher") / "roberta", ["a dog runs"] * 3)


def loaded(folder: Path | str) -> TextTeacher:
    return TextTeacher(str(folder), "main", where=WHERE)


def test_a_feature_is_the_mean_of_a_texts_tokens_whatever_the_padding(folder: Path) -> None:
    teacher = loaded(folder)
    found = teacher([["a dog", "runs " * 9], ["A dog", ""]], CPU)
    assert found.shape == (2, 2, 32)
    ids = teacher.tokenizer("a dog", return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = RobertaModel.from_pretrained(folder).eval()(ids).last_hidden_state[0]
    torch.testing.assert_close(found[0, 0], functional.normalize(hidden.mean(0), dim=0))
    torch.testing.assert_close(found.norm(dim=2), torch.ones(2, 2))
    assert not torch.allclose(found[0, 0], found[1, 0], atol=1e-3)  # it reads the case


def test_more_texts_than_are_read_at_once_keep_their_places(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[f"a dog {n}", f"{n} runs"] for n in range(5)]
    teacher = loaded(folder)
    at_once = teacher(texts, CPU)
    monkeypatch.setattr("clipflow.model.text_teacher.BATCH_SIZE", 3)
    torch.testing.assert_close(teacher(texts, CPU), at_once)


def test_long_texts_are_cut(folder: Path, tmp_path: Path) -> None:
    """At what the model takes, and at 77 tokens if it takes more."""
    longer = tiny_roberta.save(tmp_path / "longer", ["a dog runs"] * 3, num_positions=200)
    for teacher, words in ((loaded(folder), 40), (loaded(longer), 77)):
        cut = teacher([["a" * 8 + " dog" * 400], ["a" * 8 + " dog" * words]], CPU)
        torch.testing.assert_close(cut[0], cut[1])


def test_it_is_frozen_and_no_part_of_what_has_it(folder: Path) -> None:
    objective = nn.Linear(2, 2)
    objective.teacher = teacher = loaded(folder)
    assert list(objective.state_dict()) == ["weight", "bias"]
    assert sum(1 for _ in objective.modules()) == 1
    assert not any(p.requires_grad for p in teacher.model.parameters())
    objective.train()
    one, other = (teacher([["a dog"]], CPU) for _ in range(2))  # a dropout would make them differ
    assert torch.equal(one, other)
    assert not one.requires_grad


def test_loading_it_takes_no_random_numbers(folder: Path) -> None:
    """The head for whole texts, which the files don't have, is drawn by transformers."""
    before = torch.get_rng_state()
    loaded(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_text_encoder_is_refused_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bad = {name: tmp_path / name for name in ("empty", "damaged", "lacking", "wordless")}
    for name in ("damaged", "lacking", "wordless"):
        shutil.copytree(folder, bad[name])
    bad["empty"].mkdir()
    weights = bad["damaged"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    weights = bad["lacking"] / "model.safetensors"
    kept = safetensors.torch.load_file(weights)
    del kept["roberta.encoder.layer.1.output.dense.weight"]
    safetensors.torch.save_file(kept, weights, {"format": "pt"})
    for file in bad["wordless"].iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    for name in (*bad.values(), "nobody/nothing"):
        with pytest.raises(ParamsError, match=r"can't be loaded as a text encoder") as error:
            loaded(name)
        assert str(error.value).startswith(f"{WHERE}: '{name}' (revision 'main') can't be loaded")
        assert "\n" not in str(error.value)
    with pytest.raises(ParamsError, match=r"its files have no encoder\.layer\.1\.output\.dense"):
        loaded(bad["lacking"])
