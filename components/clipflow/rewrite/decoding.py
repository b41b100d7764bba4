"""Decoding: continues many prompts with a common beginning, each to a stop of its own.

What the prompts share is read once, and its keys and values serve every batch. A prompt's samples share its
reading. A finished text leaves the batch, so that nothing more is computed for it. Each text is drawn with
random numbers of its own: up to rounding it is the same whatever else is in its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from clipflow.errors import GeneratorError

Noise = np.ndarray[Any, Any]

PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def noise(seed: int, index: int, num: int) -> Noise:
    """The numbers in [0, 1) that draw sample `index` of a task with this seed: one for each token."""
    return np.random.default_rng([seed, index]).random(num, dtype=np.float32)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row: where its uniform number falls among the likeliest tokens that hold `top_p`."""
    likely = torch.softmax(logits.float() / temperature, dim=-1)
    likely, tokens = likely.sort(dim=-1, descending=True, stable=True)
    below = likely.cumsum(dim=-1) - likely
    likely = likely.where(below < top_p, 0)
    reached = likely.cumsum(dim=-1)
    place = torch.searchsorted(reached, uniform[:, None] * reached[:, -1:], right=True)
    # A product rounded up to the whole mass is past the last token that may be drawn.
    last = (likely > 0).sum(dim=-1, keepdim=True) - 1
    return tokens.gather(-1, place.minimum(last.clamp(min=0))).squeeze(-1)


class Drawn:
    """Makes transformers' own `generate` draw by `draw`: leaves one possible token per row.

    For models whose reading of a prompt is more than tokens.
    """

    def __init__(self, noises: Sequence[Noise], temperature: float, top_p: float) -> None:
        self._uniform = torch.from_numpy(np.stack(noises))
        self._temperature, self._top_p = temperature, top_p
        self.num_steps = 0

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        """`generate` calls this once per token, with the scores of each row."""
        uniform = self._uniform[:, self.num_steps].to(scores.device)
        tokens = draw(scores, uniform, self._temperature, self._top_p)
        self.num_steps += 1
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


@dataclass(frozen=True)
class Decoder:
    """A causal language model with the way in which tokens are drawn from it."""

    model: Any
    stops: Collection[int]
    """Tokens after which a text is done."""
    temperature: float
    top_p: float
    max_new_tokens: int

    def __post_init__(self) -> None:
        """Raises GeneratorError for a model whose memory is not keys and values."""
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or PLAIN_LAYERS)
        if self.model._is_stateful or not kinds <= PLAIN_LAYERS:
            raise GeneratorError(
                f"model type '{config.model_type}': its layers keep other states than keys and values,"
                " which can't be shared between prompts; choose a model with attention alone"
            )

    @torch.inference_mode()
    def read(self, beginning: Sequence[int]) -> Cache:
        """The keys and values of what prompts begin with."""
        cache = self._cache(len(beginning))
        if beginning:
            self._forward(torch.tensor([beginning], device=self.model.device), cache)
        return cache

    @torch.inference_mode()
    def continued(
        self,
        beginning: Cache,
        prompts: Sequence[Sequence[int]],
        samples: Sequence[Sequence[Noise]],
    ) -> list[list[list[int]]]:
        """What the model writes after the beginning and each prompt: the tokens of each of its samples.

        `prompts` leave the beginning out; none may be empty. A sample is given as its `noise`. A text ends
        in a stop, or has `max_new_tokens` tokens.
        """
        device = self.model.device
        batch = _Batch.of(beginning, prompts, self)
        logits = self._forward(batch.tokens, batch.cache, batch.seen, batch.positions)
        rows = [row for row, some in enumerate(samples) for _ in some]
        if rows != list(range(len(prompts))):
            spread = torch.tensor(rows, device=device)
            batch.spread(spread)
            logits = logits[spread]
        batch.uniform = torch.from_numpy(np.stack([s for some in samples for s in some])).to(device)
        written: list[list[int]] = [[] for _ in rows]
        open_texts = written
        for step in range(self.max_new_tokens):
            tokens = draw(logits, batch.uniform[:, step], self.temperature, self.top_p)
            drawn = tokens.tolist()  # the one wait for the device per token
            for text, token in zip(open_texts, drawn, strict=True):
                text.append(token)
            goes_on = [token not in self.stops for token in drawn]
            if step + 1 == self.max_new_tokens or not any(goes_on):
                break
            batch.append(tokens)
            if not all(goes_on):
                kept = compacted(goes_on)
                batch.keep(kept)
                open_texts = [open_texts[row] for row in kept]
            logits = self._forward(batch.tokens, batch.cache, batch.seen, batch.positions)
        each = iter(written)
        return [[next(each) for _ in some] for some in samples]

    def _cache(self, room: int, beginning: Cache | None = None) -> Cache:
        num = self.model.config.get_text_config().num_hidden_layers
        before: list[_Layer | None] = [None] * num
        if beginning is not None and beginning.get_seq_length():
            before = beginning.layers
        return Cache(layers=[_Layer(room, layer) for layer in before])

    def _forward(
        self,
        tokens: Tensor,
        cache: Cache,
        seen: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits after the last token of each row."""
        options = {"position_ids": positions, "logits_to_keep": 1}
        logits: Tensor = self.model(
            input_ids=tokens,
            attention_mask=seen,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in options.items() if name in self._known},
        ).logits
        return logits[:, -1]

    @cached_property
    def _known(self) -> set[str]:
        """What the model's forward takes; some know no positions."""
        return set(inspect.signature(self.model.forward).parameters)


class _Batch:
    """The rows being decoded: what the model sees next of each, and where."""

    def __init__(self, tokens: Tensor, cache: Cache, is_seen: Tensor, width: int) -> None:
        self.tokens = tokens
        self.cache = cache
        self._is_seen, self._width = is_seen, width
        self.positions = (self.seen.cumsum(dim=-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        self.uniform = torch.empty(0)

    @classmethod
    def of(cls, beginning: Cache, prompts: Sequence[Sequence[int]], decoder: Decoder) -> _Batch:
        """The prompts, padded between the beginning and their first token."""
        longest = max(map(len, prompts))
        start = beginning.get_seq_length()
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        room = start + longest + decoder.max_new_tokens
        is_seen = torch.ones(len(prompts), room, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            is_seen[row, start : start + longest - len(prompt)] = 0
        device = decoder.model.device
        cache = decoder._cache(room, beginning)
        return cls(tokens.to(device), cache, is_seen.to(device), start + longest)

    @property
    def seen(self) -> Tensor:
        """1 for what a row may attend to, 0 for padding."""
        return self._is_seen[:, : self._width]

    def spread(self, rows: Tensor) -> None:
        """Repeat the rows of prompts that have several samples."""
        self._is_seen, self.positions = self._is_seen[rows], self.positions[rows]
        for layer in self.cache.layers:
            layer.spread(rows)

    def append(self, tokens: Tensor) -> None:
        """The token drawn for each row comes next."""
        self.tokens = tokens[:, None]
        self.positions = self.positions[:, -1:] + 1
        self._width += 1

    def keep(self, rows: list[int]) -> None:
        """Only these rows go on, in this order."""
        moved = [(source, target) for target, source in enumerate(rows) if source != target]
        index = torch.tensor(rows, device=self.tokens.device)
        self.tokens, self.positions = self.tokens[index], self.positions[index]
        self._is_seen, self.uniform = self._is_seen[index], self.uniform[index]
        for layer in self.cache.layers:
            layer.keep(moved, len(rows))


def compacted(goes_on: Sequence[bool]) -> list[int]:
    """The rows that go on, in an order that leaves as many as possible in their places."""
    num = sum(goes_on)
    from_behind = [row for row in range(num, len(goes_on)) if goes_on[row]]
    return [row if goes_on[row] else from_behind.pop() for row in range(num)]


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values in memory that is taken once; transformers' own layers copy all with each token."""

    is_initialized: bool

    def __init__(self, room: int, beginning: _Layer | None = None) -> None:
        super().__init__()
        self._room, self._beginning = room, beginning
        self._length = beginning.get_seq_length() if beginning else 0

    def get_seq_length(self) -> int:
        """Tokens that are held."""
        return self._length

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Append, and return all that is held."""
        if not self.is_initialized:
            self._take_memory(key_states, value_states)
        end = self._length + key_states.shape[-2]
        self._keys[:, :, self._length : end] = key_states
        self._values[:, :, self._length : end] = value_states
        self._length = end
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def _take_memory(self, keys: Tensor, values: Tensor) -> None:
        self.dtype, self.device = keys.dtype, keys.device
        self._keys, self._values = (
            states.new_empty(*states.shape[:2], self._room, states.shape[3])
            for states in (keys, values)
        )
        if self._beginning:
            self._keys[:, :, : self._length] = self._beginning.keys
            self._values[:, :, : self._length] = self._beginning.values
        self.is_initialized = True

    def spread(self, rows: Tensor) -> None:
        """Row i becomes a copy of row `rows[i]`."""
        self._keys, self._values = self._keys[rows], self._values[rows]

    def keep(self, moved: list[tuple[int, int]], num: int) -> None:
        """Move rows to the places of finished ones, then forget all but the first `num`."""
        for source, target in moved:
            self._keys[target, :, : self._length] = self._keys[source, :, : self._length]
            self._values[target, :, : self._length] = self._values[source, :, : self._length]
        self._keys, self._values = self._keys[:num], self._values[:num]
