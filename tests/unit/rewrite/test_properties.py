"""Whatever captions and models say: nothing crashes, prompts keep their lines, echoes are refused."""

from __future__ import annotations

import functools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipflow.artifacts.rewrites import ACCEPTED
from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts
from clipflow.rewrite.cache import Cache
from clipflow.rewrite.checks import plain
from clipflow.rewrite.desk import seed_of
from clipflow.rewrite.generators import Proposal, Task
from clipflow.rewrite.generators.eda import EDA
from clipflow.rewrite.judge import Judge
from clipflow.rewrite.params import Params

few = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
PIECES = ["=>", "=", ">", "= >", '"', "'", "\n", "\r\n", "\t", " ", "\u2028", "\x85", "\x00", "\u202e",
          "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u05db\u05dc\u05d1 \u05d1\u05d7\u05d5\u05e3",
          "\ud800", "\ufffd", "a dog", "Two", "2", "1,000", "Paris", "https://a.b", "rewrite"]  # fmt: skip
WILD = st.characters(codec=None)
"""Any character, halves of surrogate pairs among them."""
captions = st.one_of(
    st.text(WILD, max_size=30),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(WILD, max_size=4)), max_size=12).map(
        "".join
    ),
    st.sampled_from(["", " ", "=>", "a => b => c", "x" * 5000, "word " * 1000, "=>" * 2500]),
)
indexes, seeds = st.integers(0, 9), st.integers(0, 2**64 - 1)
blocks = st.none() | st.integers(1, 9)


@functools.cache
def judge() -> Judge:
    generator = EDA(name="eda", alpha=0.1)
    params = Params(
        generator=generator, num_rewrites=4, seed=0, max_words=60, lost_facts="flag", agreement=None
    )  # fmt: skip
    return Judge(params)


@few
@given(captions, indexes, seeds, blocks)
def test_a_prompt_has_one_line_per_part_and_one_arrow_in_the_last(
    caption: str, index: int, seed: int, num_blocks: int | None
) -> None:
    prompt = prompts.draw(caption, index, seed, num_blocks)
    lines = prompt.text.splitlines()
    assert prompt.text.count("\n") == len(lines) - 1 == prompts.NUM_EXAMPLES + 1
    assert lines[0] == prompts.INSTRUCTION
    assert [line.count(prompts.ARROW) for line in lines[1:]] == [1] * (prompts.NUM_EXAMPLES + 1)
    assert lines[-1].endswith(prompts.ARROW)
    assert prompt == prompts.draw(caption, index, seed, num_blocks)


@few
@given(captions, seeds, st.integers(60, 400))
def test_a_fitted_prompt_keeps_its_lines_and_its_limit(caption: str, seed: int, limit: int) -> None:
    prompt = prompts.draw(caption, 0, seed)
    try:
        fitted = prompts.fit(prompt, lambda text: len(text.split()), limit)
    except GeneratorError:
        return
    assert len(fitted.text.split()) <= limit
    assert fitted.examples == prompt.examples
    assert prompt.caption.startswith(fitted.caption)
    assert len(fitted.text.splitlines()) == prompts.NUM_EXAMPLES + 2


@few
@given(captions, captions)
def test_what_is_parsed_is_one_stripped_line(completion: str, more: str) -> None:
    parsed = prompts.parse(completion)
    assert "\n" not in parsed
    assert parsed == parsed.strip()
    if "\n" in completion:
        assert prompts.parse(completion + more) == parsed


@few
@given(captions, st.lists(captions, max_size=5))
def test_the_judge_judges_anything_twice_the_same(caption: str, texts: list[str]) -> None:
    proposals = [Proposal(text, "x") for text in texts]
    found = judge()(caption, proposals)
    assert found == judge()(caption, proposals)
    assert len(found) == len(texts)
    accepted = [c["text"] for c in found if c["outcome"] == ACCEPTED]
    assert len({plain(text) for text in accepted} | {plain(caption)}) == len(accepted) + 1
    for candidate in found:
        candidate["text"].encode()
        if candidate["outcome"] == ACCEPTED:
            assert candidate["text"] in texts
            assert len(candidate["text"].splitlines()) == 1
            assert prompts.ARROW not in candidate["text"]


@few
@given(captions, indexes, seeds, st.data())
def test_a_prompt_given_back_is_no_rewrite(
    caption: str, index: int, seed: int, data: st.DataObject
) -> None:
    """The whole, the rest from any line on, any one line, or any text of an example."""
    prompt = prompts.draw(caption, index, seed)
    lines = prompt.text.splitlines()
    start = data.draw(st.integers(0, len(lines) - 1))
    example = data.draw(st.sampled_from([text for pair in prompt.examples for text in pair]))
    echoes = [
        prompt.text,
        "\n".join(lines[start:]),
        lines[start],
        example,
        f" {example}.",
        prompt.caption,
    ]
    for echo in echoes:
        (candidate,) = judge()(caption, [Proposal(prompts.parse(echo), "x")])
        assert candidate["outcome"] != ACCEPTED


@few
@given(captions, captions)
def test_keys_and_seeds_tell_captions_apart(one: str, other: str) -> None:
    cache = Cache(EDA(name="eda", alpha=0.1))
    keys = {cache.key(Task(caption, 0, 4, 7)) for caption in (one, other, one)}
    assert len(keys) == len({seed_of(0, caption) for caption in (one, other)}) == len({one, other})
    assert all(len(key) == 16 for key in keys)
    assert cache.key(Task(one, 0, 4, 7)) != cache.key(Task(one, 1, 4, 7))
