"""Shards, the cache, and what a run that goes on asks again, with a generator that counts."""

from __future__ import annotations

import json
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest

from clipflow.artifacts import lock, manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs, Writer
from clipflow.errors import ArtifactError, ClipflowError, GeneratorError, ParamsError
from clipflow.rewrite import stage
from clipflow.rewrite.cache import Cache
from clipflow.rewrite.desk import Desk
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage
from clipflow.rewrite.judge import Judge
from clipflow.rewrite.params import Params

MakePairs = Callable[[dict[str, str]], Path]
CAPTIONS = {f"k{n}": f"caption number {n % 7}" for n in range(10)}  # five shards, seven captions


class Counting(Generator):
    """Answers in reverse, three at a time; breaks after so many; every answer costs 10 + 5 tokens."""

    not_written: ClassVar[frozenset[str]] = frozenset({"breaks_after", "max_tokens", "fails"})
    asked: ClassVar[list[tuple[str, int]]] = []
    breaks_after: int = 10**6
    max_tokens: int = 10**6
    fails: bool = False
    word: str = "said"

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        tasks, num = iter(tasks), 0
        while batch := list(islice(tasks, 3)):
            if num >= self.breaks_after:
                raise GeneratorError("gone")
            num += len(batch)
            self.asked.extend((task.caption, task.first) for task in batch)
            yield [self._answer(task) for task in reversed(batch)]

    def _answer(self, task: Task) -> Answer:
        if self.fails:
            return Answer(task, [Proposal("", "fake", "no answer")], Usage(10, 5), is_final=False)
        text = f"{task.caption} {self.word} {'abc'[task.first]}"
        return Answer(task, [Proposal(text, "fake")], Usage(10, 5))

    @property
    def has_budget(self) -> bool:
        return True

    def spent(self, usage: Usage) -> str | None:
        total = usage.read + usage.written
        return f"{total} of {self.max_tokens} tokens" if total > self.max_tokens else None


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    Counting.asked.clear()


def params(seed: int = 0, **fields: int | str | bool) -> Params:
    generator = Counting(name="counting", **fields)
    return Params(
        generator=generator,
        num_rewrites=2,
        seed=seed,
        max_words=9,
        lost_facts="flag",
        agreement=None,
    )


def rows(folder: Path) -> dict[str, list[str]]:
    table = artifact.read(folder)
    return dict(zip(table["key"].to_pylist(), table["rewrites"].to_pylist(), strict=True))


EXPECTED = {key: [f"{text} said a", f"{text} said b"] for key, text in CAPTIONS.items()}


def test_equal_captions_are_asked_once_and_every_key_has_its_row(
    make_pairs: MakePairs, tmp_path: Path
) -> None:
    stage.run(params(), pairs=make_pairs(CAPTIONS), rewrites=tmp_path / "r")
    assert rows(tmp_path / "r") == EXPECTED
    assert sorted(Counting.asked) == sorted((t, i) for t in set(CAPTIONS.values()) for i in (0, 1))


def test_progress_counts_every_rewrite_once(make_pairs: MakePairs) -> None:
    """Those asked for, those that equal another in the shard or in flight, and those remembered."""
    for generator in (params().generator, params().generator):
        cache, num_done = Cache(generator), list[int]()
        desk = Desk(Pairs(make_pairs(CAPTIONS)), params(), cache, Judge(params()), lambda *_: None)
        for answers in generator.propose(desk.tasks(range(5), done=num_done.append)):
            desk.take(answers)
            num_done.append(sum(answer.task.num for answer in answers))
        assert sum(num_done) == 2 * len(CAPTIONS)


def test_a_run_that_broke_goes_on_without_asking_again(
    make_pairs: MakePairs, tmp_path: Path
) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "r"
    with pytest.raises(GeneratorError, match="gone"):
        stage.run(params(breaks_after=6), pairs=pairs, rewrites=out)
    assert not out.exists()
    done = sorted(path.name for path in (tmp_path / "r.partial").glob("*.parquet"))
    assert done == ["00000.parquet"]
    written = (tmp_path / "r.partial" / done[0]).stat().st_mtime_ns
    stage.run(params(), pairs=pairs, rewrites=out)
    assert rows(out) == EXPECTED
    assert len(Counting.asked) == len(set(Counting.asked)) == 14
    assert (out / done[0]).stat().st_mtime_ns == written
    assert sorted(p.name for p in out.iterdir() if p.suffix not in {".parquet", ".html"}) == [
        "manifest.json"
    ]


def test_a_broken_run_and_a_straight_one_write_equal_bytes(
    make_pairs: MakePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(CAPTIONS)
    with pytest.raises(GeneratorError):
        stage.run(params(breaks_after=3), pairs=pairs, rewrites=tmp_path / "broken")
    stage.run(params(), pairs=pairs, rewrites=tmp_path / "broken")
    monkeypatch.setenv("CLIPFLOW_CACHE", str(tmp_path / "another"))
    stage.run(params(), pairs=pairs, rewrites=tmp_path / "straight")
    for file in (tmp_path / "straight").iterdir():
        assert file.read_bytes() == (tmp_path / "broken" / file.name).read_bytes()


def test_more_data_costs_only_what_is_new(make_pairs: MakePairs, tmp_path: Path) -> None:
    stage.run(params(), pairs=make_pairs(CAPTIONS), rewrites=tmp_path / "r")
    Counting.asked.clear()
    more = CAPTIONS | {"k10": "something new", "k11": "caption number 3"}
    stage.run(params(), pairs=make_pairs(more), rewrites=tmp_path / "r")
    assert Counting.asked == [("something new", 0), ("something new", 1)]
    assert len(rows(tmp_path / "r")) == 12


@pytest.mark.parametrize("change", [{"seed": 1}, {"word": "told"}])
def test_another_seed_or_model_asks_again(
    make_pairs: MakePairs, tmp_path: Path, change: dict[str, int]
) -> None:
    pairs = make_pairs(CAPTIONS)
    stage.run(params(), pairs=pairs, rewrites=tmp_path / "r")
    Counting.asked.clear()
    stage.run(params(**change), pairs=pairs, rewrites=tmp_path / "r")
    assert len(Counting.asked) == 14


def test_shards_left_by_other_params_are_not_taken_over(
    make_pairs: MakePairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "r"
    with pytest.raises(GeneratorError, match="gone"):
        stage.run(params(word="told", breaks_after=9), pairs=pairs, rewrites=out)
    with caplog.at_level("INFO", logger="clipflow"):
        stage.run(params(), pairs=pairs, rewrites=out)
    assert "left by a run with other params, inputs or code: begun anew" in caplog.text
    assert rows(out) == EXPECTED


def test_the_budget_holds_over_all_runs_and_raising_it_goes_on(
    make_pairs: MakePairs, tmp_path: Path
) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "r"
    with pytest.raises(
        GeneratorError, match=r"budget: \d+ of 100 tokens; what was written is kept"
    ):
        stage.run(params(max_tokens=100), pairs=pairs, rewrites=out)
    assert len(Counting.asked) == 6  # 15 tokens each
    with pytest.raises(GeneratorError, match="budget"):
        stage.run(params(max_tokens=120), pairs=pairs, rewrites=out)
    assert len(Counting.asked) == 8
    stage.run(params(), pairs=pairs, rewrites=out)
    assert len(Counting.asked) == len(set(Counting.asked)) == 14
    assert rows(out) == EXPECTED
    generator = params().generator
    assert Cache(generator).usage() == (14, Usage(140, 70))


def test_failures_are_counted_and_asked_again_next_time(
    make_pairs: MakePairs, tmp_path: Path
) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "r"
    stage.run(params(fails=True), pairs=pairs, rewrites=out)
    assert manifest.read(out, artifact.SCHEMA)["outcomes"] == {"no answer": 20}
    assert set(map(tuple, rows(out).values())) == {()}
    stage.run(params(), pairs=pairs, rewrites=out)
    assert rows(out) == EXPECTED


def test_a_part_has_its_shards_and_is_no_whole(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = make_pairs(CAPTIONS)
    for text, shards in (("1:3", [1, 2]), ("0/2", [0, 1]), ("1/2", [2, 3, 4])):
        out = tmp_path / "part"
        stage.run(params(), pairs=pairs, rewrites=out, shard_range=text)
        assert [s["url"] for s in manifest.read(out, artifact.SCHEMA)["shards"]] == [
            f"{n:05d}.parquet" for n in shards
        ]
    with pytest.raises(ArtifactError, match="a part, with 3 of the 5 shards"):
        list(artifact.by_shard(tmp_path / "part", Pairs(pairs)))


def test_parts_cover_every_shard_once() -> None:
    for num_shards in (1, 5, 17):
        for parts in (1, 2, 3, 8):
            ranges = [stage.shards_of(f"{i}/{parts}", num_shards) for i in range(parts)]
            assert [n for part in ranges for n in part] == list(range(num_shards))


@pytest.mark.parametrize("text", ["", "3", "2:2", "3:1", "0:6", "2/2", "-1:2", "a:b", "1/0"])
def test_ranges_that_there_are_not(text: str) -> None:
    with pytest.raises(ParamsError, match=r"--shard-range: expected A:B with 0 <= A < B <= 5"):
        stage.shards_of(text, 5)


def test_one_process_at_a_time(make_pairs: MakePairs, tmp_path: Path) -> None:
    partial = tmp_path / "r.partial"
    partial.mkdir()
    with lock.held(partial / "lock"), pytest.raises(ClipflowError, match="still going on"):
        stage.run(params(), pairs=make_pairs(CAPTIONS), rewrites=tmp_path / "r")


def test_a_damaged_cache_says_what_to_do(make_pairs: MakePairs, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "rewrites.sqlite").write_bytes(
        b"no database at all, but long enough" * 99
    )
    with pytest.raises(GeneratorError, match="or delete the file if it is damaged"):
        stage.run(params(), pairs=make_pairs(CAPTIONS), rewrites=tmp_path / "r")


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    task, generator = Task("a dog", 0, 1, 5), params().generator
    one, two = Cache(generator), Cache(generator)
    key = one.key(task)
    one.store([(key, Answer(task, [Proposal("a hound", "fake")], Usage(3, 2)))])
    two.store([(key, Answer(task, [Proposal("a hound", "fake")], Usage(3, 2)))])
    assert two.look_up([key, b"x" * 16]) == {key: [Proposal("a hound", "fake")]}
    assert one.usage() == (2, Usage(6, 4))
    stored = sqlite3.connect(two.file).execute("SELECT proposals FROM answers").fetchall()
    assert [json.loads(text) for (text,) in stored] == [[["a hound", "fake", None]]]


def test_images_are_tasks_of_their_own(make_pairs: MakePairs, tmp_path: Path) -> None:
    class Seeing(Counting):
        sees_images: ClassVar[bool] = True
        images: ClassVar[list[bytes | None]] = []

        def _answer(self, task: Task) -> Answer:
            self.images.append(task.image)
            return super()._answer(task)

    seeing = Params(
        generator=Seeing(name="seeing"),
        num_rewrites=1,
        seed=0,
        max_words=9,
        lost_facts="flag",
        agreement=None,
    )
    stage.run(seeing, pairs=make_pairs({"a": "same", "b": "same"}), rewrites=tmp_path / "r")
    assert Seeing.images == [b"not decoded here"]  # both pairs' image is the same
    assert len(rows(tmp_path / "r")) == 2


def test_an_image_is_in_memory_only_while_its_task_is_out(tmp_path: Path) -> None:
    """One shard of 32 images, half a megabyte each: some twice, one answered in an earlier run."""

    class Seeing(Counting):
        sees_images: ClassVar[bool] = True

    size, contents = 1 << 19, [n % 24 for n in range(32)]
    with manifest.complete_or_absent(tmp_path / "pairs") as folder:
        writer = Writer(folder, samples_per_shard=len(contents))
        for number, content in enumerate(contents):
            writer.add(f"k{number}", bytes([content]) * size, "same", {})
        writer.close()
    seeing = params().model_copy(update={"generator": Seeing(name="seeing")})
    cache, shards, seen = Cache(seeing.generator), list[dict[str, object]](), list[int]()

    def desk() -> Desk:
        def write(_: str, rows: dict[str, object]) -> None:
            shards.append(rows)

        return Desk(Pairs(tmp_path / "pairs"), seeing, cache, Judge(seeing), write)

    earlier = desk()
    first = next(earlier.tasks([0], done=lambda _: None))
    earlier.take([Answer(first, [Proposal("a thing", "fake")])])
    del first, earlier

    tracemalloc.start()
    try:
        now = desk()
        for task in now.tasks([0], done=lambda _: None):
            assert task.image == bytes([task.image[0]]) * size
            seen.append(task.image[0])
            now.take([Answer(task, [Proposal("a thing", "fake")])])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        cache.close()
    assert seen == [0, *(content for content in range(1, 24) for _ in (0, 1))]
    assert [list(rows) for rows in shards] == [[f"k{n}" for n in range(32)]]
    assert peak < 6 * size, f"{peak / size:.1f} images at once"
