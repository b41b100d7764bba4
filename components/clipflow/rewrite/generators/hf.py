"""hf: any causal language model that transformers loads; on CUDA if there is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field

from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class HF(Generator):
    """Rewrites by in-context learning. Source: LaCLIP, section 3.1; its model is LLaMA-7B."""

    model: str = Field(min_length=1)
    """A folder, or a name that is in the local cache or can be downloaded."""
    revision: str = Field(min_length=1)
    """Branch, tag or commit of a named model. A folder has none and ignores it."""
    batch_size: int = Field(ge=1)
    """Prompts decoded together. Sampling is seeded per batch, so another size gives other texts."""
    max_new_tokens: int = Field(ge=1)
    """Tokens to decode at most; decoding stops at the end of the line anyway."""
    temperature: float = Field(gt=0)
    """Sampling temperature."""
    top_p: float = Field(gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability."""
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    """Of weights and arithmetic. `auto` is bfloat16 on CUDA, float32 on CPU."""

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """One proposal per task. Raises GeneratorError if the model can't load."""
        writer, tasks = _Writer(self), iter(tasks)
        while batch := list(islice(tasks, self.batch_size)):
            drawn = [writer.fit(prompts.draw(t.caption, t.first, t.seed)) for t in batch]
            completions = writer.complete([prompt.text for prompt in drawn], batch[0].seed)
            yield [
                Answer(task, [Proposal(prompts.parse(completion), prompt.provenance)])
                for task, prompt, completion in zip(batch, drawn, completions, strict=True)
            ]


class _Writer:
    """A loaded model with its tokenizer: continues prompts to the end of their last line."""

    def __init__(self, settings: HF) -> None:
        """Load both. Raises GeneratorError naming what is missing."""
        try:
            import torch
            from safetensors import SafetensorError
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise GeneratorError(
                f"generator 'hf' needs {error.name}: pip install 'clipflow[train]'"
            ) from None
        self.settings = settings
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        auto = "bfloat16" if self.device == "cuda" else "float32"
        precision = auto if settings.precision == "auto" else settings.precision
        _check_folder(Path(settings.model))
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                settings.model, revision=settings.revision, padding_side="left"
            )
            self.model = AutoModelForCausalLM.from_pretrained(
                settings.model, revision=settings.revision, dtype=getattr(torch, precision)
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise GeneratorError(_cannot_load(settings, error)) from None
        self.model.to(self.device).eval()
        if self.tokenizer.pad_token_id is None:
            tokenizer = self.tokenizer
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        self.stops = self._stops()
        length = getattr(self.model.config, "max_position_embeddings", None)
        self.limit = None if length is None else length - settings.max_new_tokens

    def fit(self, prompt: prompts.Prompt) -> prompts.Prompt:
        """The prompt, its caption cut if the model's context is too short for it."""
        if self.limit is None:
            return prompt
        return prompts.fit(prompt, lambda text: len(self.tokenizer(text).input_ids), self.limit)

    def complete(self, texts: list[str], seed: int) -> list[str]:
        """What the model writes after each text. Equal texts and seed give equal completions."""
        import torch

        inputs = self.tokenizer(texts, return_tensors="pt", padding=True).to(self.device)
        devices = [torch.cuda.current_device()] if self.device == "cuda" else []
        try:
            with torch.random.fork_rng(devices), torch.inference_mode():
                torch.manual_seed(seed)
                output = self.model.generate(
                    input_ids=inputs.input_ids,
                    attention_mask=inputs.attention_mask,
                    do_sample=True,
                    temperature=self.settings.temperature,
                    top_p=self.settings.top_p,
                    top_k=0,
                    max_new_tokens=self.settings.max_new_tokens,
                    eos_token_id=self.stops,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
        except torch.OutOfMemoryError:
            raise GeneratorError(
                f"generator 'hf': out of memory with batch_size {self.settings.batch_size};"
                " lower generators.hf.batch_size"
            ) from None
        written = output[:, inputs.input_ids.shape[1] :]
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [str(text) for text in texts]

    def _stops(self) -> list[int]:
        """Tokens that end a line: the end of text and every token with a newline in it."""
        ids = range(len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[i] for i in ids])
        stops = {i for i, text in zip(ids, texts, strict=True) if "\n" in text}
        return sorted(stops | ({self.tokenizer.eos_token_id} - {None}))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file():
        raise GeneratorError(
            f"{folder}: expected a transformers model, no config.json there; pass the folder that"
            " save_pretrained() wrote"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise GeneratorError(
            f"{folder}: no tokenizer there, expected {' or '.join(TOKENIZER_FILES)}; save it with"
            " tokenizer.save_pretrained() into the same folder"
        )


def _cannot_load(settings: HF, error: Exception) -> str:
    first = " ".join(str(error).split())[:200]
    if Path(settings.model).is_dir():
        return f"{settings.model}: can't load the model in this folder ({first})"
    return (
        f"no network or unknown model '{settings.model}' (revision '{settings.revision}'): pass a"
        f" local folder, or set HF_HOME to a cache that has it ({first})"
    )
