"""vllm: a causal language model in vLLM's own engine, in this process; for GPUs.

vLLM brings its own torch and is an extra of its own. It batches, schedules and shares prefixes by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, ClassVar

from pydantic import Field

from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts, transformers_models
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage
from clipflow.rewrite.transformers_models import Precision


class VLLM(Generator):
    """Rewrites by in-context learning. Source: LaCLIP, section 3.1; its model is LLaMA-7B."""

    model: str = Field(min_length=1)
    """A folder, or a name that is in the local cache or can be downloaded."""
    revision: str = Field(min_length=1)
    """Branch, tag or commit of a named model. A folder has none and ignores it."""
    few_shot_blocks: int | None = Field(ge=1)
    """Sets of three examples per source that are drawn from; vLLM keeps the keys and values of each.

    null draws three examples anew for each caption, as the paper does.
    """
    tasks_per_call: int = Field(ge=1)
    """Rewrites handed to the engine at a time; it waits for the last of them before the next call."""
    max_new_tokens: int = Field(ge=1)
    """Tokens to decode at most; a text without the end of its line by then is rejected as cut off."""
    temperature: float = Field(gt=0)
    """Sampling temperature."""
    top_p: float = Field(gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability."""
    precision: Precision
    """Of weights and arithmetic. `auto` is what the model was saved in, float16 for float32."""
    num_gpus: int = Field(ge=1)
    """GPUs that the model is split over (tensor parallelism)."""

    not_written: ClassVar[frozenset[str]] = frozenset({"tasks_per_call", "num_gpus"})

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """A list of answers per call. Raises GeneratorError if vLLM is missing or the model can't load."""
        engine, tasks = _Engine(self), iter(tasks)
        while some := list(islice(tasks, self.tasks_per_call)):
            yield engine.answers(some)

    def identity(self) -> str:
        """Params, and the model in a local folder."""
        return f"{super().identity()} {transformers_models.fingerprint(self.model)}"


class _Engine:
    """vLLM's engine with the model in it."""

    def __init__(self, settings: VLLM) -> None:
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise GeneratorError(
                f"generator 'vllm' needs vllm ({error}): pip install 'clipflow[vllm]'"
            ) from None
        self.settings, self.sampling = settings, SamplingParams
        try:
            self.llm = LLM(
                model=settings.model,
                revision=settings.revision,
                dtype=settings.precision,
                tensor_parallel_size=settings.num_gpus,
                enable_prefix_caching=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            first = " ".join(str(error).split())[:200]
            raise GeneratorError(
                f"{settings.model} (revision '{settings.revision}'): vLLM can't load it ({first});"
                " see its log above"
            ) from None
        self.tokenizer = self.llm.get_tokenizer()
        self.limit = self.llm.llm_engine.model_config.max_model_len - settings.max_new_tokens

    def answers(self, tasks: list[Task]) -> list[Answer]:
        """An answer to each task, in their order."""
        drawn = [
            self._fit(prompts.draw(t.caption, t.first, t.seed, self.settings.few_shot_blocks))
            for t in tasks
        ]
        outputs = self.llm.generate(
            [prompt.text for prompt in drawn],
            [self._sampling(task) for task in tasks],
            use_tqdm=False,
        )
        return [self._answer(*each) for each in zip(tasks, drawn, outputs, strict=True)]

    def _fit(self, prompt: prompts.Prompt) -> prompts.Prompt:
        return prompts.fit(prompt, lambda text: len(self.tokenizer.encode(text)), self.limit)

    def _sampling(self, task: Task) -> Any:
        return self.sampling(
            seed=(task.seed + task.first) % 2**63,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            max_tokens=self.settings.max_new_tokens,
            stop=["\n"],
        )

    def _answer(self, task: Task, prompt: prompts.Prompt, output: Any) -> Answer:
        (completion,) = output.outputs
        problem = "cut off" if completion.finish_reason == "length" else None
        proposal = Proposal(prompts.parse(completion.text), prompt.provenance, problem)
        usage = Usage(len(output.prompt_token_ids), len(completion.token_ids))
        return Answer(task, [proposal], usage)
