from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from clipflow.errors import GeneratorError
from clipflow.rewrite import decoding, prompts
from clipflow.rewrite.generators import Answer, Task, Usage
from clipflow.rewrite.generators import hf as module
from clipflow.rewrite.generators.hf import HF
from fakes import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights and a byte-level BPE of its own, without a pad token."""
    return tiny_llama.save(tmp_path_factory.mktemp("tiny-llama"), num_positions=512)


def hf(folder: Path, **changed: Any) -> HF:
    fields = {
        "name": "hf",
        "model": str(folder),
        "revision": "main",
        "few_shot_blocks": 2,
        "samples_per_prompt": 1,
        "batch_size": 3,
        "max_new_tokens": 8,
        "temperature": 0.9,
        "top_p": 0.95,
        "precision": "float32",
    }
    return HF(**{**fields, **changed})


CAPTIONS = [
    "a dog",
    "a long caption about two boats in a harbor at night",
    "a cat",
    "",
    "a bird => a plane\n",
    "two cats sleeping on a sofa",
]
TASKS = [
    Task(caption, first, 1, seed)
    for seed, caption in enumerate(CAPTIONS, start=2**63)
    for first in range(4)
]


@pytest.fixture
def lines_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model all but never ends a line: let a tenth of its tokens do so."""
    stops = module._Writer._stops
    monkeypatch.setattr(module._Writer, "_stops", lambda self: stops(self) | set(range(0, 400, 10)))


def by_task(answers: Iterable[list[Answer]]) -> dict[Task, Answer]:
    return {answer.task: answer for together in answers for answer in together}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("few_shot_blocks", [None, 2])
def test_each_task_is_answered_once(
    folder: Path, batch_size: int, few_shot_blocks: int | None
) -> None:
    settings = hf(folder, batch_size=batch_size, few_shot_blocks=few_shot_blocks)
    answers = list(settings.propose(TASKS))
    assert max(map(len, answers)) <= batch_size
    assert sorted(a.task for some in answers for a in some) == sorted(TASKS)
    for task, answer in by_task(answers).items():
        assert [p.source for p in answer.proposals] == [prompts.SOURCES[task.first]]


def test_equal_seeds_give_equal_rewrites(folder: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = list(hf(folder).propose(TASKS))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert list(hf(folder).propose(TASKS)) == first
    others = [task._replace(seed=task.seed + 10) for task in TASKS]
    same = by_task(hf(folder).propose(others))
    assert sum(
        same[other].proposals == answer.proposals
        for other, answer in zip(others, by_task(first).values(), strict=True)
    ) < len(TASKS)


@pytest.mark.usefixtures("lines_end")
@pytest.mark.parametrize("few_shot_blocks", [None, 2])
def test_a_text_depends_on_its_task_alone(folder: Path, few_shot_blocks: int | None) -> None:
    """Not on the batch, the order, or what else is asked for; with texts that end at different tokens."""
    settings = {"few_shot_blocks": few_shot_blocks, "max_new_tokens": 24}
    together = by_task(hf(folder, batch_size=64, **settings).propose(TASKS))
    assert len({answer.usage.written for answer in together.values()}) > 8
    assert by_task(hf(folder, batch_size=5, **settings).propose(TASKS[::-1])) == together
    alone = hf(folder, **settings)
    for task in TASKS[1::5]:
        assert by_task(alone.propose([task])) == {task: together[task]}


@pytest.mark.usefixtures("lines_end")
@pytest.mark.parametrize("few_shot_blocks", [None, 1])
def test_what_is_written_is_what_transformers_writes(
    folder: Path, few_shot_blocks: int | None
) -> None:
    """With one token to choose from (top_p near 0): the whole prompt alone, greedily, without our cache."""
    settings = hf(
        folder, few_shot_blocks=few_shot_blocks, top_p=1e-6, batch_size=64, max_new_tokens=24
    )
    writer = module._Writer(settings)
    lengths = set()
    for task, answer in by_task(settings.propose(TASKS)).items():
        prompt = prompts.draw(task.caption, task.first, task.seed, few_shot_blocks).text
        inputs = writer.tokenizer(prompt, return_tensors="pt")
        (output,) = writer.model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=sorted(writer.decoder.stops),
            pad_token_id=0,
        )
        written = output[inputs.input_ids.shape[1] :]
        text = prompts.parse(writer.tokenizer.decode(written, skip_special_tokens=True))
        lengths.add(len(written))
        assert [p.text for p in answer.proposals] == [text]
        assert answer.usage == Usage(inputs.input_ids.shape[1], len(written))
    assert len(lengths) > 3


@pytest.mark.usefixtures("lines_end")
def test_samples_of_one_prompt(folder: Path) -> None:
    """They share a source and its examples, and each is what it would be alone."""
    settings = hf(folder, samples_per_prompt=3, batch_size=7, max_new_tokens=24)
    assert settings.per_task(4) == 3
    tasks = [Task(c, f, n, 5) for c in CAPTIONS for f, n in ((0, 3), (3, 1))]
    together = by_task(settings.propose(tasks))
    for task, answer in together.items():
        assert [p.source for p in answer.proposals] == [
            "bard" if task.first else "chatgpt"
        ] * task.num
        alone = by_task(settings.propose([task._replace(num=1)]))
        assert [a.proposals for a in alone.values()] == [answer.proposals[:1]]
    assert len({p.text for p in together[tasks[0]].proposals}) == 3


Written = Callable[[int, list[int]], str]


def spy(monkeypatch: pytest.MonkeyPatch, folder: Path, write: Written) -> list[list[str]]:
    """Replaces decoding: `write` continues each prompt. Returns the batches of prompts that were seen."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    seen: list[list[str]] = []

    def continued(_: Any, beginning: Any, tokens: list[list[int]], samples: list[Any]) -> Any:
        seen.append([tokenizer.decode([*beginning, *ids]) for ids in tokens])
        assert [len(some) for some in samples] == [1] * len(tokens)
        texts = [write(len(seen), ids) for ids in tokens]
        return [[tokenizer(text).input_ids] for text in texts]

    monkeypatch.setattr(decoding.Decoder, "read", lambda _, beginning: beginning)
    monkeypatch.setattr(decoding.Decoder, "continued", continued)
    return seen


@pytest.mark.parametrize("few_shot_blocks", [None, 2])
def test_the_model_sees_the_prompts_and_answers_go_to_their_captions(
    folder: Path, monkeypatch: pytest.MonkeyPatch, few_shot_blocks: int | None
) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def last_line(_: int, ids: list[int]) -> str:
        return f" {tokenizer.decode(ids).splitlines()[-1][:-3].upper()} again\nmore => text\n"

    seen = spy(monkeypatch, folder, last_line)
    answers = by_task(hf(folder, few_shot_blocks=few_shot_blocks).propose(TASKS))
    expected = [prompts.draw(t.caption, t.first, t.seed, few_shot_blocks).text for t in TASKS]
    assert sorted(text for batch in seen for text in batch) == sorted(expected)
    for task, answer in answers.items():
        (proposal,) = answer.proposals
        assert proposal.text == f"{prompts.one_line(task.caption).upper()} again".strip()
        assert proposal.problem is None


def test_batches_hold_captions_of_one_block_and_about_one_length(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy(monkeypatch, folder, lambda *_: "\n")
    tasks = [Task("dog " * (i % 7), 0, 1, i) for i in range(60)]
    list(hf(folder, batch_size=8).propose(tasks))
    assert len(seen) <= 2 + 60 // 8
    for batch in seen:
        assert len({text.rpartition("\n")[0] for text in batch}) == 1
        lengths = [len(text) for text in batch]
        assert lengths == sorted(lengths, reverse=True)


def test_tasks_are_read_no_further_than_the_window(folder: Path) -> None:
    tasks = iter([Task("a dog", 0, 1, seed) for seed in range(100)])
    next(hf(folder, batch_size=1, few_shot_blocks=None).propose(tasks))
    assert len(list(tasks)) == 100 - module.BATCHES_AHEAD


def test_decoding_stops_at_the_end_of_the_line(folder: Path) -> None:
    """A model made to write newlines stops after one token, however many it may write."""
    writer = module._Writer(hf(folder, max_new_tokens=64))
    newline = writer.tokenizer("\n").input_ids[-1]
    assert newline in writer.decoder.stops
    assert writer.tokenizer.eos_token_id in writer.decoder.stops
    assert writer.tokenizer("dog").input_ids[-1] not in writer.decoder.stops
    num_passes = []
    writer.model.register_forward_hook(lambda *_: num_passes.append(1))

    def push_newline(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        pushed = logits.clone()
        pushed[..., newline] += 1e4
        return pushed

    writer.model.lm_head.register_forward_hook(push_newline)
    (answers,) = writer.answers(TASKS[:4:4], batch_size=3)
    assert [p for answer in answers for p in answer.proposals] == [("", "chatgpt", None)]
    assert len(num_passes) == 2  # the block, and the caption


def test_nothing_is_computed_for_finished_texts(folder: Path) -> None:
    """The rows of each forward pass are the texts that are not done."""
    writer = module._Writer(hf(folder, max_new_tokens=24, few_shot_blocks=1, batch_size=64))
    writer.decoder.stops.update(range(0, 400, 10))
    num_rows: list[int] = []

    def count(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        num_rows.append(len(named["input_ids"]))

    writer.model.register_forward_pre_hook(count, with_kwargs=True)
    tasks = [Task("a dog", 0, 1, seed) for seed in range(40)]
    (answers,) = writer.answers(tasks, batch_size=64)
    assert num_rows[0] == 1  # the block
    assert sum(num_rows[1:]) == sum(answer.usage.written for answer in answers)


def test_a_line_without_an_end_is_cut_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, folder, lambda *_: " no end")
    answers = by_task(hf(folder).propose(TASKS[:1]))
    assert answers[TASKS[0]].proposals == [("no end", "chatgpt", "cut off")]


def test_a_long_caption_is_cut_and_says_so(folder: Path) -> None:
    task = Task("boat " * 400, 0, 1, 0)
    answers = by_task(hf(folder).propose([task, *TASKS[:3]]))
    assert [p.source for p in answers[task].proposals] == ["chatgpt, caption cut"]
    assert answers[task].usage.read <= 512 - 8


def test_identity_changes_with_the_model_in_the_folder(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = hf(tmp_path).identity()
    assert hf(tmp_path, batch_size=9).identity() == before
    assert hf(tmp_path, top_p=0.9).identity() != before
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"more")
    other_weights = hf(tmp_path).identity()
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("10000.0", "20000.0"))
    assert len({before, other_weights, hf(tmp_path).identity()}) == 3


def test_layers_that_see_less_than_the_prompt_share_no_block(folder: Path, tmp_path: Path) -> None:
    """Then a batch changes nothing either."""
    for file in folder.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, sliding_window=40,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.2, bos_token_id=0,
        eos_token_id=1, max_position_embeddings=512,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    together = by_task(hf(tmp_path, batch_size=64).propose(TASKS))
    assert by_task(hf(tmp_path, batch_size=1).propose(TASKS)) == together


def test_a_model_whose_states_cannot_be_shared(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(GeneratorError, match="'mamba': its layers keep other states"):
        next(hf(tmp_path).propose(TASKS))


def test_out_of_memory_names_the_param_to_lower(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(decoding.Decoder, "continued", out_of_memory)
    with pytest.raises(GeneratorError, match=r"batch_size 3; lower generators\.hf\.batch_size"):
        list(hf(folder).propose(TASKS))


def test_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(GeneratorError, match="no tokenizer there"):
        list(hf(tmp_path).propose([]))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"no config\.json there"):
        list(hf(tmp_path).propose([]))


def test_a_folder_with_damaged_weights(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(GeneratorError, match="can't load the model in this folder"):
        list(hf(tmp_path).propose([]))


def test_an_unknown_model_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(GeneratorError, match="no network or unknown model 'nobody/nothing'"):
        list(hf(Path("nobody/nothing")).propose([]))
