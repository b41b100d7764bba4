"""Rewrites per second of the `hf` generator against LaCLIP's reference loop, on the same model and prompts.

    make bench-rewrite-hf        which is        python tests/benchmarks/rewrite_hf.py

LaCLIP's script (rewrite/llama_rewrite.py, over LLaMA's own generation) is expressed anew here: batches of
full prompts in the order of the captions, one source at a time, 77 new tokens for each whatever is
written, keys and values kept in place. Where it differs from the original, it is faster: prompts are padded
on the left, so that a batch takes 77 passes and not 77 plus the difference of its prompts' lengths. Tokens
are drawn by the same function from the same random numbers, so that both sides keep the same texts; that is
checked.

The model is a small Llama, trained here for a minute on nothing but the stage's own few-shot prompts, so
that its lines end where lines of the meta-pairs end; the mean is printed. Captions are as long as CC3M's.
With its defaults the generator reads ahead four batches for each few-shot block; so here.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import numpy as np
import photos
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from clipflow.artifacts import manifest
from clipflow.rewrite import decoding, prompts
from clipflow.rewrite.desk import seed_of
from clipflow.rewrite.generators import Task
from clipflow.rewrite.generators.hf import HF

NEW_TOKENS = 77
TEMPERATURE, TOP_P = 0.9, 0.95
TRAINING_S = 90
MAX_DIFFERENT = 0.02
"""Share of texts that may differ between the sides, by rounding."""


def main() -> None:
    """Measure with shared blocks and with the paper's draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--training-s", type=float, default=TRAINING_S)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = harness.OUT / f"rewrite-hf-{args.layers}x{args.width}-{args.training_s:g}s"
    if not folder.exists():
        train(folder, args)
    tasks = list(make_tasks(args.captions))
    blocks = max(1, len(tasks) // len(prompts.SOURCES) // (4 * args.batch_size))
    comparisons = []
    for num_blocks in (blocks, None):
        comparisons.append(compare(folder, tasks, num_blocks, args))
    harness.report("rewrite-hf", comparisons)


def compare(
    folder: Path, tasks: list[Task], num_blocks: int | None, args: argparse.Namespace
) -> harness.Comparison:
    """Both sides in alternation, after each has written one batch."""
    settings = HF(
        name="hf", model=str(folder), revision="main", few_shot_blocks=num_blocks, samples_per_prompt=1,
        batch_size=args.batch_size, max_new_tokens=NEW_TOKENS, temperature=TEMPERATURE, top_p=TOP_P,
        precision="float32",
    )  # fmt: skip
    reference = Reference(folder, args.batch_size)
    kept: dict[str, dict[Task, str]] = {"ours": {}, "reference": {}}
    num_written: list[int] = []

    def ours(some: list[Task] = tasks) -> float:
        started = 0.0

        def handed_out() -> Iterator[Task]:
            nonlocal started
            started = time.perf_counter()  # the model is loaded by now
            yield from some

        for answers in settings.propose(handed_out()):
            for answer in answers:
                kept["ours"][answer.task] = answer.proposals[0].text
                num_written.append(answer.usage.written)
        return len(some) / (time.perf_counter() - started)

    def theirs(some: list[Task] = tasks) -> float:
        started = time.perf_counter()
        kept["reference"] |= reference.rewrites(some, num_blocks)
        return len(some) / (time.perf_counter() - started)

    ours(tasks[: args.batch_size]), theirs(tasks[: args.batch_size])
    num_written.clear()
    rates = harness.alternate(ours, theirs, args.runs)
    different = sum(kept["ours"][task] != kept["reference"][task] for task in tasks)
    assert different <= MAX_DIFFERENT * len(tasks), f"{different} of {len(tasks)} texts differ"
    draws = "examples drawn per caption" if num_blocks is None else "shared few-shot blocks"
    lengths = np.array(num_written)
    print(
        f"{draws}: {lengths.mean():.1f} tokens a line on average, {np.mean(lengths == NEW_TOKENS):.1%}"
        f" without an end; {different} of {len(tasks)} kept texts differ by rounding"
    )
    name = f"{draws}, Llama {args.layers} x {args.width}, batch {args.batch_size}, {args.threads} threads"
    return harness.Comparison(name, *rates, "LaCLIP's loop", "rewrites/s", "more")


class Reference:
    """LaCLIP's loop: every prompt in full, every text 77 tokens long."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.batch_size = batch_size

    def rewrites(self, tasks: list[Task], num_blocks: int | None) -> dict[Task, str]:
        """The first line of what is written for each task, one source after the other."""
        kept = {}
        by_source = sorted(tasks, key=lambda task: task.first)
        for first in range(0, len(by_source), self.batch_size):
            batch = by_source[first : first + self.batch_size]
            texts = [
                prompts.draw(task.caption, task.first, task.seed, num_blocks).text for task in batch
            ]
            noises = [decoding.noise(task.seed, task.first, NEW_TOKENS) for task in batch]
            written = self.written(texts, torch.from_numpy(np.stack(noises)))
            completions = self.tokenizer.batch_decode(written, skip_special_tokens=True)
            kept |= dict(zip(batch, map(prompts.parse, completions), strict=True))
        return kept

    @torch.inference_mode()
    def written(self, texts: list[str], uniform: Tensor) -> Tensor:
        """77 new tokens for each prompt."""
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
        width = inputs.input_ids.shape[1]
        seen = torch.nn.functional.pad(inputs.attention_mask, (0, NEW_TOKENS), value=1)
        positions = (seen.cumsum(-1) - 1).clamp(min=0)
        layers = [
            decoding._Layer(width + NEW_TOKENS) for _ in range(self.model.config.num_hidden_layers)
        ]
        cache = decoding.Cache(layers=layers)
        tokens, written = inputs.input_ids, []
        for step in range(NEW_TOKENS):
            end = width + step
            logits = self.model(
                input_ids=tokens,
                attention_mask=seen[:, :end],
                position_ids=positions[:, end - tokens.shape[1] : end],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            tokens = decoding.draw(logits, uniform[:, step], TEMPERATURE, TOP_P)[:, None]
            written.append(tokens)
        return torch.cat(written, dim=1)


def make_tasks(num_captions: int) -> Iterator[Task]:
    """A task for each source and caption."""
    rng, words = random.Random(0), photos._words()
    for _ in range(num_captions):
        caption = photos._caption(rng, words)
        for number in range(len(prompts.SOURCES)):
            yield Task(caption, number, 1, seed_of(0, caption))


def documents() -> Iterator[str]:
    """Prompts whose last line is continued by its meta-pair's other half."""
    rng = random.Random(0)
    for number in iter(int, 1):
        source = rng.choice(prompts.SOURCES)
        row = rng.sample(rng.choice(prompts.meta_pairs(source)), 2)
        index = prompts.SOURCES.index(source)
        yield f"{prompts.draw(row[0], index, rng.getrandbits(32) + number).text} {row[1]}\n"


def train(folder: Path, args: argparse.Namespace) -> None:
    """Save a small Llama that has read few-shot prompts for some seconds, and its tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = documents()
    tokenizer.train_from_iterator((next(texts) for _ in range(2000)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=args.width, intermediate_size=8 * args.width // 3,
        num_hidden_layers=args.layers, num_attention_heads=args.width // 64,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    end = time.monotonic() + args.training_s
    loss, num_steps = torch.tensor(float("nan")), 0
    while time.monotonic() < end:
        num_steps += 1
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, num_steps / 20)
        lines = [fast(next(texts)).input_ids for _ in range(4)]
        width = max(map(len, lines))
        ids = torch.tensor([line + [1] * (width - len(line)) for line in lines])
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == 1, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    print(f"trained {folder.name}: {num_steps} steps, to a loss of {loss.item():.2f}")
    with manifest.complete_or_absent(folder) as partial:
        model.save_pretrained(partial)
        fast.save_pretrained(partial)


if __name__ == "__main__":
    main()
