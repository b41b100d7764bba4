"""hf: any causal language model that transformers loads; on CUDA if there is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from clipflow.rewrite import prompts, transformers_models
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage
from clipflow.rewrite.transformers_models import Precision

BATCHES_AHEAD = 32
"""Batches' worth of tasks that are read ahead, to find captions of about the same length."""
BATCHES_AHEAD_PER_BLOCK = 16
"""The same for each few-shot block of a source; there are four, so that each block fills some batches."""


class HF(Generator):
    """Rewrites by in-context learning. Source: LaCLIP, section 3.1; its model is LLaMA-7B."""

    model: str = Field(min_length=1)
    """A folder, or a name that is in the local cache or can be downloaded."""
    revision: str = Field(min_length=1)
    """Branch, tag or commit of a named model. A folder has none and ignores it."""
    few_shot_blocks: int | None = Field(ge=1)
    """Sets of three examples per source that are drawn from; the model reads one once for many captions.

    null draws three examples anew for each caption, as the paper does: a third slower.
    """
    samples_per_prompt: int = Field(ge=1)
    """Rewrites drawn from one prompt, which is read once for all of them. The paper draws 1."""
    batch_size: int = Field(ge=1)
    """Texts decoded together. Changes nothing in what is written, up to rounding."""
    max_new_tokens: int = Field(ge=1)
    """Tokens to decode at most; a text without the end of its line by then is rejected as cut off."""
    temperature: float = Field(gt=0)
    """Sampling temperature."""
    top_p: float = Field(gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability."""
    precision: Precision
    """Of weights and arithmetic. `auto` is bfloat16 on CUDA, float32 on CPU."""

    prompt_version: ClassVar[int] = 2
    not_written: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """A list of answers per batch. Raises GeneratorError if the model can't load."""
        writer, tasks = _Writer(self), iter(tasks)
        ahead = max(BATCHES_AHEAD, BATCHES_AHEAD_PER_BLOCK * (self.few_shot_blocks or 0))
        while window := list(islice(tasks, ahead * self._tasks_per_batch)):
            yield from writer.answers(window, self._tasks_per_batch)

    def per_task(self, num_rewrites: int) -> int:
        """One prompt's samples make a task."""
        return self.samples_per_prompt

    def identity(self) -> str:
        """Params, and the model in a local folder."""
        return f"{super().identity()} {transformers_models.fingerprint(self.model)}"

    @property
    def _tasks_per_batch(self) -> int:
        return max(1, self.batch_size // self.samples_per_prompt)


class _Prompted(NamedTuple):
    """A task with its prompt, of which the model has yet to read `tokens`."""

    task: Task
    prompt: prompts.Prompt
    tokens: list[int]
    num_shared: int
    """Tokens of the prompt that come before."""


class _Writer:
    """A loaded model with its tokenizer: continues prompts to the end of their last line."""

    def __init__(self, settings: HF) -> None:
        """Load both. Raises GeneratorError naming what is missing."""
        self.model, self.tokenizer = transformers_models.load(
            "hf", settings.model, settings.revision, settings.precision,
            model_class="AutoModelForCausalLM",
        )  # fmt: skip
        # Needs torch, which the params alone don't.
        from clipflow.rewrite import decoding

        self.settings = settings
        self.noise = decoding.noise
        self.decoder = decoding.Decoder(
            self.model,
            self._stops(),
            settings.temperature,
            settings.top_p,
            settings.max_new_tokens,
        )
        length = getattr(self.model.config, "max_position_embeddings", None)
        self.limit = None if length is None else length - settings.max_new_tokens
        config = self.model.config.get_text_config()
        spans = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        self.span = min((span for span in spans if span), default=None)
        """How far back every layer sees; None for to the beginning."""
        self._tokens_of_block: dict[str, list[int]] = {}

    def answers(self, tasks: list[Task], batch_size: int) -> Iterator[list[Answer]]:
        """An answer to each task, a batch at a time: by what prompts share, longest captions first."""
        for shared, group in self._by_beginning(tasks).items():
            group.sort(key=lambda prompted: -len(prompted.tokens))
            with transformers_models.within_memory("hf", self.settings.batch_size):
                beginning = self.decoder.read(shared)
            for first in range(0, len(group), batch_size):
                batch = group[first : first + batch_size]
                with transformers_models.within_memory("hf", self.settings.batch_size):
                    written = self.decoder.continued(
                        beginning,
                        [prompted.tokens for prompted in batch],
                        [self._noises(prompted.task) for prompted in batch],
                    )
                yield [self._answer(*both) for both in zip(batch, written, strict=True)]

    def _by_beginning(self, tasks: list[Task]) -> dict[tuple[int, ...], list[_Prompted]]:
        """The prompts that begin with the same tokens: those of their block, where blocks are shared.

        A prompt is split where its own tokens cease to be the block's, so that the model reads exactly the
        tokens of the whole prompt.
        """
        drawn = [self._drawn(task) for task in tasks]
        groups = defaultdict(list)
        read = self._tokens([prompt.text for prompt in drawn])
        for task, prompt, tokens in zip(tasks, drawn, read, strict=True):
            if self.limit is not None and len(tokens) > self.limit:
                prompt = prompts.fit(prompt, lambda text: len(self._tokens([text])[0]), self.limit)
                (tokens,) = self._tokens([prompt.text])
            num = self._num_shared(prompt, tokens)
            groups[tuple(tokens[:num])].append(_Prompted(task, prompt, tokens[num:], num))
        return groups

    def _drawn(self, task: Task) -> prompts.Prompt:
        number = task.first // self.settings.samples_per_prompt
        return prompts.draw(task.caption, number, task.seed, self.settings.few_shot_blocks)

    def _num_shared(self, prompt: prompts.Prompt, tokens: list[int]) -> int:
        """How many of a prompt's tokens are its block's; at least one is left to be read.

        None where a layer doesn't see the whole: padding after the block would push it out of sight.
        """
        is_seen = self.span is None or len(tokens) + self.settings.max_new_tokens <= self.span
        if self.settings.few_shot_blocks is None or not is_seen:
            return 0
        block = prompt.text.rpartition("\n")[0] + "\n"
        if block not in self._tokens_of_block:
            (self._tokens_of_block[block],) = self._tokens([block])
        both = enumerate(zip(tokens, self._tokens_of_block[block], strict=False))
        most = min(len(tokens) - 1, len(self._tokens_of_block[block]))
        return min(most, next((i for i, (ours, its) in both if ours != its), most))

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts).input_ids
        return ids

    def _noises(self, task: Task) -> list[Any]:
        num = self.settings.max_new_tokens
        return [self.noise(task.seed, task.first + sample, num) for sample in range(task.num)]

    def _answer(self, prompted: _Prompted, written: list[list[int]]) -> Answer:
        task, prompt, tokens, num_shared = prompted
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        proposals = [
            Proposal(
                prompts.parse(text),
                prompt.provenance,
                None if ids[-1] in self.decoder.stops else "cut off",
            )
            for text, ids in zip(texts, written, strict=True)
        ]
        return Answer(task, proposals, Usage(num_shared + len(tokens), sum(map(len, written))))

    def _stops(self) -> set[int]:
        """Tokens that end a line: the end of text and every token with a newline in it."""
        ids = range(len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[i] for i in ids])
        stops = {i for i, text in zip(ids, texts, strict=True) if "\n" in text}
        return stops | ({self.tokenizer.eos_token_id} - {None})
