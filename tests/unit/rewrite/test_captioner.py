import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs, Writer
from clipflow.errors import GeneratorError
from clipflow.rewrite import stage
from clipflow.rewrite.generators import Answer, Task
from clipflow.rewrite.generators.captioner import Captioner
from clipflow.rewrite.params import Params
from fakes.artifacts import jpeg, make_pairs
from fakes.tiny_blip import make_blip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blip(tmp_path_factory.mktemp("tiny-blip"))


def captioner(folder: Path, **changed: Any) -> Captioner:
    fields = {
        "name": "captioner",
        "model": str(folder),
        "revision": "main",
        "prompt": None,
        "batch_size": 3,
        "max_new_tokens": 12,
        "temperature": 1.0,
        "top_p": 0.95,
        "precision": "float32",
    }
    return Captioner(**{**fields, **changed})


IMAGES = [jpeg((40 * i, 255 - 40 * i, 90)) for i in range(6)]
TASKS = [Task("not looked at", 0, 4, seed, image) for seed, image in enumerate(IMAGES)]


def by_seed(answers: Iterable[list[Answer]]) -> dict[int, Answer]:
    return {answer.task.seed: answer for some in answers for answer in some}


def test_captions_through_the_stage(folder: Path, tmp_path: Path) -> None:
    """Real JPEGs of a pairs artifact; two with one caption and different images are two tasks."""
    pairs = make_pairs(tmp_path / "pairs", {f"k{i}": "a dog" for i in range(5)}, 2)
    params = Params(
        generator=captioner(folder),
        num_rewrites=3,
        seed=0,
        max_words=30,
        lost_facts="keep",
        agreement=None,
    )
    stage.run(params, pairs=pairs, rewrites=tmp_path / "rewrites")
    rows = artifact.read(tmp_path / "rewrites").to_pylist()
    assert [row["key"] for row in rows] == [f"k{i}" for i in range(5)]
    texts = [[candidate["text"] for candidate in row["provenance"]] for row in rows]
    assert [len(some) for some in texts] == [3] * 5
    assert len({tuple(some) for some in texts}) == 5
    assert {c["source"] for row in rows for c in row["provenance"]} == {folder.name}
    assert any(row["rewrites"] for row in rows)


def test_a_damaged_image_is_told(folder: Path, tmp_path: Path) -> None:
    with manifest.complete_or_absent(tmp_path / "pairs") as partial:
        writer = Writer(partial, samples_per_shard=9)
        writer.add("good", IMAGES[0], "a dog", {})
        writer.add("truncated", IMAGES[1][:300], "a dog", {})
        writer.add("other", b"no image", "a dog", {})
        writer.close()
    params = Params(
        generator=captioner(folder),
        num_rewrites=2,
        seed=0,
        max_words=30,
        lost_facts="keep",
        agreement=None,
    )
    stage.run(params, pairs=tmp_path / "pairs", rewrites=tmp_path / "rewrites")
    shards = artifact.read(tmp_path / "rewrites").to_pylist()
    outcomes = {row["key"]: {c["outcome"] for c in row["provenance"]} for row in shards}
    assert outcomes["truncated"] == outcomes["other"] == {"unreadable image"}
    assert "unreadable image" not in outcomes["good"]
    assert len(Pairs(tmp_path / "pairs")) == 3


def test_a_caption_depends_on_its_task_alone(folder: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    together = by_seed(captioner(folder, batch_size=64).propose(TASKS))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert by_seed(captioner(folder, batch_size=1).propose(TASKS[::-1])) == together
    assert len({p.text for answer in together.values() for p in answer.proposals}) > 12
    (alone,) = by_seed(captioner(folder).propose([TASKS[2]._replace(num=2)])).values()
    assert alone.proposals == together[2].proposals[:2]


def test_with_one_token_to_choose_from_it_is_what_transformers_writes(folder: Path) -> None:
    settings = captioner(folder, top_p=1e-6, batch_size=64)
    processor = BlipProcessor.from_pretrained(folder)
    model = BlipForConditionalGeneration.from_pretrained(folder)
    for answer in by_seed(settings.propose(TASKS)).values():
        image = Image.open(io.BytesIO(answer.task.image or b""))
        inputs = processor(images=image, return_tensors="pt")
        (output,) = model.generate(**inputs, do_sample=False, max_length=None, max_new_tokens=12)
        expected = processor.decode(output, skip_special_tokens=True)
        assert {p.text for p in answer.proposals} == {expected}
        ended = 2 in output[1:]
        assert {p.problem for p in answer.proposals} == {None if ended else "cut off"}


def test_captions_end_or_are_cut_off(folder: Path) -> None:
    answers = by_seed(captioner(folder, max_new_tokens=6, batch_size=64).propose(TASKS)).values()
    problems = [p.problem for answer in answers for p in answer.proposals]
    assert {None, "cut off"} == set(problems)
    for answer in answers:
        for proposal in answer.proposals:
            if proposal.problem is None:
                assert len(proposal.text.split()) < 6
        assert answer.usage.written <= 4 * 6


def test_the_prompt_begins_captions_and_is_left_out(folder: Path) -> None:
    """What is written depends on it, and does not repeat it."""
    plain = by_seed(captioner(folder, batch_size=64).propose(TASKS))
    begun = by_seed(captioner(folder, prompt="a photo of", batch_size=64).propose(TASKS))
    assert {answer.usage.read for answer in begun.values()} == {5}
    texts = [p.text for answer in begun.values() for p in answer.proposals]
    assert not any(text.startswith("a photo of") for text in texts)
    assert texts != [p.text for answer in plain.values() for p in answer.proposals]


def test_identity_changes_with_the_prompt_and_not_with_the_batch(folder: Path) -> None:
    assert captioner(folder, batch_size=9).identity() == captioner(folder).identity()
    assert captioner(folder, prompt="what is this?").identity() != captioner(folder).identity()


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"no config\.json there"):
        list(captioner(tmp_path).propose([]))
