"""captioner: says what an image shows, by any image-to-text model that transformers loads."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from pydantic import Field

from clipflow.rewrite import transformers_models
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage
from clipflow.rewrite.transformers_models import Precision


class Captioner(Generator):
    """Captions of the image, drawn by sampling, without a look at the caption.

    Source of the idea: ALIP (arXiv:2308.08428), DreamLIP (arXiv:2403.17007); their model is another.
    """

    model: str = Field(min_length=1)
    """A folder, or a name that is in the local cache or can be downloaded: BLIP, GIT, LLaVA, ..."""
    revision: str = Field(min_length=1)
    """Branch, tag or commit of a named model. A folder has none and ignores it."""
    prompt: str | None = Field(min_length=1)
    """What the model is asked, or how its captions begin (which is left out of them); null for nothing.

    A model with a chat template is asked in its template.
    """
    batch_size: int = Field(ge=1)
    """Images looked at together, for all their captions. Changes nothing in these, up to rounding."""
    max_new_tokens: int = Field(ge=1)
    """Tokens of a caption at most; one that is not done by then is rejected as cut off."""
    temperature: float = Field(gt=0)
    """Sampling temperature."""
    top_p: float = Field(gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability."""
    precision: Precision
    """Of weights and arithmetic. `auto` is bfloat16 on CUDA, float32 on CPU."""

    sees_images: ClassVar[bool] = True
    not_written: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        """A list of answers per batch. Raises GeneratorError if the model can't load."""
        painter, tasks = _Captioner(self), iter(tasks)
        while batch := list(islice(tasks, self.batch_size)):
            yield painter.answers(batch)

    def per_task(self, num_rewrites: int) -> int:
        """An image is looked at once for all its captions."""
        return num_rewrites

    def identity(self) -> str:
        """Params, and the model in a local folder."""
        return f"{super().identity()} {transformers_models.fingerprint(self.model)}"


class _Captioner:
    """A loaded model with its processor."""

    def __init__(self, settings: Captioner) -> None:
        """Load both. Raises GeneratorError naming what is missing."""
        self.settings = settings
        self.model, self.processor = transformers_models.load(
            "captioner", settings.model, settings.revision, settings.precision,
            model_class="AutoModelForImageTextToText", reader_class="AutoProcessor",
        )  # fmt: skip
        self.source = Path(settings.model).name
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        config = self.model.generation_config
        ends = (
            config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        )
        self.ends = {
            *ends, config.pad_token_id,
            tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id,
        }  # fmt: skip
        """Tokens that end a caption, or come after its end."""

    def answers(self, tasks: list[Task]) -> list[Answer]:
        """An answer to each task, in their order."""
        images = [_opened(task.image) for task in tasks]
        seen = [(task, image) for task, image in zip(tasks, images, strict=True) if image]
        written = iter(self._captions([t for t, _ in seen], [i for _, i in seen]) if seen else [])
        return [
            next(written)
            if image
            else Answer(task, [Proposal("", self.source, "unreadable image")] * task.num)
            for task, image in zip(tasks, images, strict=True)
        ]

    def _captions(self, tasks: list[Task], images: list[Image.Image]) -> list[Answer]:
        import torch
        from transformers import LogitsProcessorList

        from clipflow.rewrite import decoding

        inputs = self._inputs(images).to(self.model.device, self.model.dtype)
        num, length = max(task.num for task in tasks), self.settings.max_new_tokens
        drawn = decoding.Drawn(
            [
                decoding.noise(task.seed, task.first + i, length)
                for task in tasks
                for i in range(num)
            ],
            self.settings.temperature,
            self.settings.top_p,
        )
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        memory = transformers_models.within_memory("captioner", self.settings.batch_size)
        with memory, torch.inference_mode(), torch.random.fork_rng(devices):
            output = self.model.generate(
                **inputs,
                do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
                logits_processor=LogitsProcessorList([drawn]),
                num_return_sequences=num,
                max_length=None,
                max_new_tokens=length,
            ).tolist()  # fmt: skip
        asked = inputs.get("input_ids")
        said = [""] * len(tasks) if asked is None else self._texts(asked.tolist())
        read = [0] * len(tasks) if asked is None else [len(ids) for ids in asked]
        texts = self._texts(output)
        answers = []
        for place, task in enumerate(tasks):
            rows = range(place * num, place * num + task.num)
            new = [output[row][-drawn.num_steps :] for row in rows]
            proposals = [
                Proposal(
                    " ".join(texts[row].removeprefix(said[place]).split()),
                    self.source,
                    None if tokens[-1] in self.ends else "cut off",
                )
                for row, tokens in zip(rows, new, strict=True)
            ]
            answers.append(Answer(task, proposals, Usage(read[place], sum(map(self._num, new)))))
        return answers

    def _inputs(self, images: list[Image.Image]) -> Any:
        prompt = self.settings.prompt
        if prompt is None:
            return self.processor(images=images, return_tensors="pt")
        if getattr(self.processor, "chat_template", None) is None:
            texts = [prompt] * len(images)
            return self.processor(images=images, text=texts, return_tensors="pt", padding=True)
        asked = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": image},
                        {"type": "text", "text": prompt},
                    ],
                }
            ]
            for image in images
        ]
        return self.processor.apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt", padding=True,
        )  # fmt: skip

    def _texts(self, ids: list[list[int]]) -> list[str]:
        texts: list[str] = self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    def _num(self, tokens: list[int]) -> int:
        """Tokens up to the end of the caption."""
        ends = (place for place, token in enumerate(tokens, start=1) if token in self.ends)
        return next(ends, len(tokens))


def _opened(jpeg: bytes | None) -> Image.Image | None:
    """The image, or None for a damaged one."""
    assert jpeg is not None
    try:
        return Image.open(io.BytesIO(jpeg)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
