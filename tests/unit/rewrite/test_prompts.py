import random
from collections import Counter

import pytest

from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts


def num_words(text: str) -> int:
    return len(text.split())


def test_text_by_hand() -> None:
    prompt = prompts.Prompt("human", (("a b", "c"), ("d", "e f")), "my caption")
    assert prompt.text == ("rewrite image captions differently,\na b => c\nd => e f\nmy caption =>")


@pytest.mark.parametrize("source", prompts.SOURCES)
def test_meta_pairs_are_sixteen_clean_lines(source: str) -> None:
    rows = prompts.meta_pairs(source)
    texts = [text for row in rows for text in row]
    assert len(rows) >= 16
    assert {len(row) for row in rows} == ({5} if source == "coco" else {2})
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert text == text.strip()
        assert num_words(text) >= 2
        assert not set(text) & set("\t=>")


def test_rewrite_i_uses_source_i_mod_4() -> None:
    sources = [prompts.draw("a dog", i, seed=5).source for i in range(6)]
    assert sources == ["chatgpt", "bard", "coco", "human", "chatgpt", "bard"]


def test_examples_are_different_pairs_of_one_source() -> None:
    for seed in range(50):
        for i, source in enumerate(prompts.SOURCES):
            examples = prompts.draw("a dog", i, seed).examples
            rows = prompts.meta_pairs(source)
            from_rows = [next(r for r in rows if s in r and t in r) for s, t in examples]
            assert len(set(from_rows)) == 3
            assert all(s != t for s, t in examples)


def test_the_draw_is_seeded_by_seed_and_index_only() -> None:
    first, again = prompts.draw("a dog", 0, 7), prompts.draw("a dog", 0, 7)
    assert first == again
    assert prompts.draw("a cat", 0, 7).examples == first.examples
    assert len({prompts.draw("a dog", 0, seed).examples for seed in range(20)}) > 15
    assert prompts.draw("a dog", 4, 7).examples != first.examples


def test_blocks_are_dealt_evenly_and_shared() -> None:
    rng = random.Random(0)
    seeds = [rng.getrandbits(64) for _ in range(4000)]
    drawn = [prompts.draw("a dog", index, seed, 8) for index in (0, 3) for seed in seeds]
    blocks = Counter((prompt.source, prompt.examples) for prompt in drawn)
    assert len(blocks) == 16
    assert all(abs(count - 500) < 5 * 500**0.5 for count in blocks.values())
    both = Counter((prompts.dealt(s, 0) % 4, prompts.dealt(s, 4) % 4) for s in seeds)
    assert all(abs(count - 250) < 5 * 250**0.5 for count in both.values())
    assert len(both) == 16


@pytest.mark.parametrize("index", [0, 2])
def test_every_pair_is_equally_likely(index: int) -> None:
    """2000 draws of 3 of n: each pair is expected 6000 / n times, give or take 5 deviations."""
    rows = prompts.meta_pairs(prompts.SOURCES[index])
    seen = Counter(
        next(row for row in rows if source in row)
        for seed in range(2000)
        for source, _ in prompts.draw("a dog", index, seed).examples
    )
    share = 3 / len(rows)
    deviation = (2000 * share * (1 - share)) ** 0.5
    assert len(seen) == len(rows)
    assert all(abs(count - 2000 * share) < 5 * deviation for count in seen.values())


def test_coco_draws_two_different_captions_of_a_scene_in_either_order() -> None:
    row = prompts.meta_pairs("coco")[0]
    drawn = {
        example
        for seed in range(2000)
        for example in prompts.draw("a dog", 2, seed).examples
        if example[0] in row
    }
    assert drawn == {(s, t) for s in row for t in row if s != t}


def test_a_caption_with_arrows_and_newlines_stays_one_line_with_one_arrow() -> None:
    prompt = prompts.draw("left => right\n\nand  back", 0, 0)
    last = prompt.text.splitlines()[-1]
    assert last == "left right and back =>"
    assert len(prompt.text.splitlines()) == 5


@pytest.mark.parametrize(
    ("completion", "rewrite"),
    [
        (" a hound\nnext caption => something", "a hound"),
        (" a hound", "a hound"),
        ("\nlater", ""),
        ("", ""),
    ],
)
def test_parse(completion: str, rewrite: str) -> None:
    assert prompts.parse(completion) == rewrite


def test_fit_cuts_the_caption_and_never_the_examples() -> None:
    prompt = prompts.draw(" ".join(f"w{i}" for i in range(100)), 0, 0)
    needed = num_words(prompt.text)
    assert prompts.fit(prompt, num_words, needed) is prompt
    cut = prompts.fit(prompt, num_words, needed - 60)
    assert cut.caption.split() == [f"w{i}" for i in range(40)]
    assert cut.examples == prompt.examples
    assert num_words(cut.text) == needed - 60
    assert (prompt.provenance, cut.provenance) == ("chatgpt", "chatgpt, caption cut")


def test_fit_refuses_a_context_that_is_too_short_for_the_examples() -> None:
    with pytest.raises(GeneratorError, match="longer context"):
        prompts.fit(prompts.draw("a dog on a beach", 0, 0), num_words, 10)
