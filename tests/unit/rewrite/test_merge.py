import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError
from clipflow.rewrite import merge, stage
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task

MakePairs = Callable[[dict[str, str]], Path]
CAPTIONS = {f"k{n}": f"a picture of {n} boats" for n in range(9)}  # five shards


class Fake(Generator):
    is_cheap: ClassVar[bool] = True
    word: str = "ships"

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        for task in tasks:
            texts = [task.caption, task.caption.replace("boats", self.word)]
            yield [Answer(task, [Proposal(text, "fake") for text in texts])]


@pytest.fixture
def write(stage_params: Any, make_pairs: MakePairs, tmp_path: Path) -> Callable[..., Path]:
    """Writes a part of the rewrites of nine pairs."""
    pairs = make_pairs(CAPTIONS)

    def part(
        name: str, shard_range: str | None = None, word: str = "ships", **changes: int
    ) -> Path:
        params = stage_params("rewrite", **changes)
        params = params.model_copy(update={"generator": Fake(name="fake", word=word)})
        stage.run(params, pairs=pairs, rewrites=tmp_path / name, shard_range=shard_range)
        return tmp_path / name

    return part


def test_parts_become_what_one_run_would_have_written(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    whole = write("whole")
    parts = [write("b", "3:5"), write("a", "0:1"), write("c", "1:3")]
    out = tmp_path / "out"
    merge.run(parts, pairs=tmp_path / "pairs", rewrites=out)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    for file in whole.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes(), file.name
    assert len(list(artifact.by_shard(out, Pairs(tmp_path / "pairs")))) == 5


def test_shards_are_copied_where_they_cannot_be_linked(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    merge.run(
        [write("a", "0/2"), write("b", "1/2")], pairs=tmp_path / "pairs", rewrites=tmp_path / "out"
    )
    assert manifest.digest(tmp_path / "out") == manifest.digest(write("whole"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"word": "yachts"}, r'b: made with generator.word "yachts", but .*a with "ships"'),
        ({"max_words": 9}, r"b: made with params.max_words 9, but .*a with \d+"),
        ({"seed": 7}, "made with params.seed 7"),
        ({"shard_range": "1:3"}, r"00001.parquet: also in .*a; merge parts of different"),
    ],
)
def test_refuses_parts_that_do_not_belong_together(
    write: Callable[..., Path], tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    a, b = write("a", "0:2"), write("b", **{"shard_range": "2:5", **other})
    with pytest.raises(ArtifactError, match=message):
        merge.run([a, b], pairs=tmp_path / "pairs", rewrites=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_parts_of_other_pairs(
    write: Callable[..., Path], make_pairs: MakePairs, tmp_path: Path
) -> None:
    a, b = write("a", "0:2"), write("b", "2:5")
    shutil.rmtree(tmp_path / "pairs")
    make_pairs({**CAPTIONS, "k0": "another"})
    with pytest.raises(ArtifactError, match=r"a: made of other pairs .* pass the pairs that"):
        merge.run([a, b], pairs=tmp_path / "pairs", rewrites=tmp_path / "out")
    with pytest.raises(ArtifactError, match="c: made with pairs"):
        merge.run([a, write("c", "2:5")], pairs=tmp_path / "pairs", rewrites=tmp_path / "out")


def test_says_which_shards_are_missing(write: Callable[..., Path], tmp_path: Path) -> None:
    parts = [write("a", "1:2"), write("b", "3:4")]
    with pytest.raises(ArtifactError, match=r"5 shards, the parts have 2 .* being 0:1, 2:3, 4:5$"):
        merge.run(parts, pairs=tmp_path / "pairs", rewrites=tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_refuses_a_damaged_part(write: Callable[..., Path], tmp_path: Path, damage: str) -> None:
    a, b = write("a", "0:2"), write("b", "2:5")
    shard = b / "00003.parquet"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-20])
    else:
        shard.unlink()
    with pytest.raises(ArtifactError, match=r"b/00003.parquet: expected SHA-256"):
        merge.run([a, b], pairs=tmp_path / "pairs", rewrites=tmp_path / "out")
    assert not (tmp_path / "out").exists()
