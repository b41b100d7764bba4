"""backtranslate: to another language and back, the paper's baseline of rewriting by translation models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from clipflow.rewrite import transformers_models
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage
from clipflow.rewrite.transformers_models import Precision

BATCHES_AHEAD = 32
"""Batches' worth of tasks that are read ahead, to find captions of about the same length."""
MAX_TOKENS = 4096
"""Of a caption, where neither model nor tokenizer says what they can read."""

Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class BackTranslate(Generator):
    """Rewrite i goes through pair i mod n of models, with beam search. Source: LaCLIP, ablations."""

    models: list[Pair] = Field(min_length=1)
    """Pairs of sequence-to-sequence models, to another language and back: folders or names.

    All are loaded at the same time. A pair writes one rewrite of a caption: n pairs write n that differ.
    """
    batch_size: int = Field(ge=1)
    """Captions translated together. Changes nothing in what is written, up to rounding."""
    num_beams: int = Field(ge=1)
    """Translations kept while searching for the likeliest; 1 is greedy."""
    max_new_tokens: int = Field(ge=1)
    """Tokens of a translation at most; one that is not done by then is rejected as cut off."""
    precision: Precision
    """Of weights and arithmetic. `auto` is bfloat16 on CUDA, float32 on CPU."""

    not_written: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """A list of answers per batch. Raises GeneratorError if a model can't load."""
        translators = [[_Translator(name, self) for name in pair] for pair in self.models]
        tasks = iter(tasks)
        while window := list(islice(tasks, BATCHES_AHEAD * self.batch_size)):
            by_pair = defaultdict(list)
            for task in sorted(window, key=lambda task: -len(task.caption)):
                by_pair[task.first % len(self.models)].append(task)
            for number, group in by_pair.items():
                for first in range(0, len(group), self.batch_size):
                    batch = group[first : first + self.batch_size]
                    there, back = translators[number]
                    yield _answers(batch, there, back)

    def identity(self) -> str:
        """Params, and the models in local folders."""
        prints = [transformers_models.fingerprint(name) for pair in self.models for name in pair]
        return f"{super().identity()} {' '.join(prints)}"


class _Translation(NamedTuple):
    """A text in the other language."""

    text: str
    is_cut: bool
    """Whether the text lost its end, before or after."""
    usage: Usage


def _answers(tasks: list[Task], there: _Translator, back: _Translator) -> list[Answer]:
    foreign = there.translated([" ".join(task.caption.split()) for task in tasks])
    english = back.translated([translation.text for translation in foreign])
    source = f"back-translation {Path(there.name).name}"
    return [
        Answer(
            task,
            [Proposal(last.text, source, "cut off" if first.is_cut or last.is_cut else None)],
            first.usage + last.usage,
        )
        for task, first, last in zip(tasks, foreign, english, strict=True)
    ]


class _Translator:
    """A loaded model with its tokenizer."""

    def __init__(self, name: str, settings: BackTranslate) -> None:
        """Load both. Raises GeneratorError naming what is missing."""
        self.name, self.settings = name, settings
        self.model, self.tokenizer = transformers_models.load(
            "backtranslate", name, "main", settings.precision, model_class="AutoModelForSeq2SeqLM"
        )
        longest = getattr(self.model.config, "max_position_embeddings", None)
        self.limit = min(self.tokenizer.model_max_length, longest or MAX_TOKENS, MAX_TOKENS)
        ends = self.model.generation_config.eos_token_id
        self.ends = {*ends} if isinstance(ends, list) else {ends}

    def translated(self, texts: list[str]) -> list[_Translation]:
        """The likeliest translation of each text."""
        import torch

        inputs = self.tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=self.limit
        ).to(self.model.device)
        memory = transformers_models.within_memory("backtranslate", self.settings.batch_size)
        with memory, torch.inference_mode():
            output = self.model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                num_beams=self.settings.num_beams,
                do_sample=False,
                max_length=None,
                max_new_tokens=self.settings.max_new_tokens,
            )
        written = output[:, 1:].tolist()  # the first token only starts the decoder
        said = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        num_read = inputs.attention_mask.sum(dim=1).tolist()
        return [self._translation(*one) for one in zip(said, written, num_read, strict=True)]

    def _translation(self, text: str, tokens: list[int], num_read: int) -> _Translation:
        ends = [place for place, token in enumerate(tokens, start=1) if token in self.ends]
        is_cut = not ends or num_read >= self.limit
        usage = Usage(num_read, ends[0] if ends else len(tokens))
        return _Translation(" ".join(text.split()), is_cut, usage)
