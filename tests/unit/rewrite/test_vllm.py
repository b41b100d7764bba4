"""The vllm generator against a stand-in for vLLM, which does not install beside this package's torch.

The stand-in takes what vLLM's documentation says that `LLM`, `LLM.generate` and `SamplingParams` take, and
returns objects with the fields that it says they return. It shows that we speak that interface as
documented, not that vLLM behaves so.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts
from clipflow.rewrite.generators import Task, Usage
from clipflow.rewrite.generators.vllm import VLLM

TASKS = [Task(f"dog number {i}", first, 1, 2**64 - 1 - i) for i in range(3) for first in range(4)]


class SamplingParams:
    def __init__(
        self, *, n: int = 1, seed: int | None = None, temperature: float = 1.0, top_p: float = 1.0,
        max_tokens: int | None = 16, stop: str | list[str] | None = None,
    ) -> None:  # fmt: skip
        assert seed is not None
        assert 0 <= seed < 2**63
        self.n, self.seed, self.temperature, self.top_p = n, seed, temperature, top_p
        self.max_tokens, self.stop = max_tokens, stop


class LLM:
    """Continues a prompt by its last line in capitals, one token per word."""

    made: Any = None

    def __init__(self, model: str, **options: Any) -> None:
        if model == "nobody/nothing":
            raise OSError("not a model identifier")
        self.model, self.options = model, options
        self.calls: list[list[tuple[str, SamplingParams]]] = []
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=200))
        LLM.made = self

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(encode=str.split)

    def generate(
        self, prompts: list[str], sampling_params: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[Any]:
        assert not use_tqdm
        calls = list(zip(prompts, sampling_params, strict=True))
        self.calls.append(calls)
        return [self._output(*call) for call in calls]

    def _output(self, prompt: str, sampling: SamplingParams) -> Any:
        words = prompt.splitlines()[-1].removesuffix(" =>").upper().split()
        is_cut = len(words) > (sampling.max_tokens or 0)
        words = words[: sampling.max_tokens]
        completion = SimpleNamespace(
            index=0, text=f" {' '.join(words)}", token_ids=words,
            finish_reason="length" if is_cut else "stop",
        )  # fmt: skip
        return SimpleNamespace(prompt=prompt, prompt_token_ids=prompt.split(), outputs=[completion])


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def vllm(**changed: Any) -> VLLM:
    fields = {
        "name": "vllm",
        "model": "some/model",
        "revision": "main",
        "few_shot_blocks": 2,
        "tasks_per_call": 5,
        "max_new_tokens": 8,
        "temperature": 0.9,
        "top_p": 0.95,
        "precision": "auto",
        "num_gpus": 1,
    }
    return VLLM(**{**fields, **changed})


def test_every_task_is_answered() -> None:
    answers = list(vllm().propose(TASKS))
    assert [len(some) for some in answers] == [5, 5, 2]
    flat = [answer for some in answers for answer in some]
    assert [answer.task for answer in flat] == TASKS
    for answer in flat:
        (proposal,) = answer.proposals
        assert proposal == (answer.task.caption.upper(), prompts.SOURCES[answer.task.first], None)
        prompt = prompts.draw(answer.task.caption, answer.task.first, answer.task.seed, 2).text
        assert answer.usage == Usage(len(prompt.split()), 3)


def test_what_the_engine_is_told() -> None:
    list(vllm(num_gpus=2, precision="bfloat16").propose(TASKS))
    assert LLM.made.options == {
        "revision": "main", "dtype": "bfloat16", "tensor_parallel_size": 2,
        "enable_prefix_caching": True,
    }  # fmt: skip
    samplings = [sampling for call in LLM.made.calls for _, sampling in call]
    assert len({sampling.seed for sampling in samplings}) == len({t.seed + t.first for t in TASKS})
    for sampling in samplings:
        assert sampling.stop == ["\n"]
        assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.9, 0.95, 8)


def test_a_line_without_an_end_is_cut_off() -> None:
    ((answer,),) = vllm().propose([Task("word " * 9, 0, 1, 0)])
    assert answer.proposals[0].problem == "cut off"


def test_a_long_caption_is_cut_and_says_so() -> None:
    ((answer,),) = vllm().propose([Task("word " * 900, 0, 1, 0)])
    assert answer.proposals[0].source == "chatgpt, caption cut"
    assert answer.usage.read <= 200 - 8


def test_equal_calls_change_nothing_in_the_identity() -> None:
    assert vllm(tasks_per_call=9, num_gpus=4).identity() == vllm().identity()
    assert vllm(few_shot_blocks=None).identity() != vllm().identity()


def test_an_unknown_model() -> None:
    with pytest.raises(GeneratorError, match=r"nobody/nothing .* vLLM can't load it"):
        list(vllm(model="nobody/nothing").propose([]))


def test_without_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(GeneratorError, match=r"pip install 'clipflow\[vllm\]'"):
        list(vllm().propose(TASKS))
