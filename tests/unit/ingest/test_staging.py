"""Work that is interrupted, wherever, goes on and comes to the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from clipflow.errors import ArtifactError, ClipflowError
from clipflow.ingest import fetching, stage
from clipflow.ingest.rows import Refused, Row
from clipflow.ingest.sources.folder import Folder
from unit.ingest.conftest import photo, write_photos


def files(folder: Path) -> dict[str, bytes]:
    return {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()
    }


class Interrupted(BaseException):
    """Like Ctrl-C."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "d", {f"{n:02d}.jpg": f"number {n}" for n in range(23)})


@pytest.mark.parametrize("after", [0, 1, 7, 12, 22])
def test_interrupted_while_fetching(
    tmp_path: Path, data: Path, ingest_photos: Any, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = files(ingest_photos(data, out="whole", samples_per_shard=5)[0].folder)
    read: list[str] = []
    image = Folder.image

    def counted(self: Folder, root: Path, row: Row) -> bytes | Refused:
        if len(read) == after:
            raise Interrupted
        read.append(row.name)
        return image(self, root, row)

    monkeypatch.setattr(Folder, "image", counted)
    with pytest.raises(Interrupted):
        ingest_photos(data, samples_per_shard=5)
    assert not (tmp_path / "out/pairs").exists()
    first = list(read)
    after = 1000
    pairs, _ = ingest_photos(data, samples_per_shard=5)
    assert files(pairs.folder) == whole
    # Whole shards are not read again.
    again = set(first) & set(read[len(first) :])
    assert len(again) < 5 + 5
    assert not list((tmp_path / "scratch/ingest").iterdir())


def test_an_error_in_a_thread_ends_the_run(
    data: Path, ingest_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.OpenChunk, "put", full)
    with pytest.raises(OSError, match="No space left"):
        ingest_photos(data, samples_per_shard=2)


def test_images_come_in_any_order_from_a_few_shards_at_a_time(
    data: Path, ingest_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "OPEN_CHUNKS", 2)
    num_open: list[int] = []
    opened = fetching.Staging.open

    def open_chunk(self: Any, chunk: int, *, again: bool) -> Any:
        num_open.append(len([f for f in self.folder.glob("*.bin.partial") if f.exists()]) + 1)
        return opened(self, chunk, again=again)

    def backwards(
        self: Folder, root: Path, batches: Iterator[Sequence[Row]]
    ) -> Iterator[tuple[Row, bytes | Refused]]:
        for batch in batches:
            for row in reversed(batch):
                yield row, self.image(root, row)

    monkeypatch.setattr(fetching.Staging, "open", open_chunk)
    monkeypatch.setattr(Folder, "images", backwards)
    pairs, _ = ingest_photos(data, samples_per_shard=4)
    assert pairs.captions == [f"number {n}" for n in range(23)]
    assert len(num_open) == 6
    assert max(num_open) <= 2


def test_only_what_failed_is_fetched_again(
    tmp_path: Path, data: Path, stage_params: Any, values: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    values["sources"]["folder"] |= {"captions_file": "captions.tsv", "test_share": 0.0}
    values["ingest"]["duplicates"] |= {"exact": True}
    (data / "03.jpg").write_bytes(photo(19))  # the same as 19.jpg, which is there all the time
    (data / "05.jpg").write_bytes(b"no image")
    params = stage_params("ingest", source="folder", data=str(data), samples_per_shard=5)
    whole, outs = ({n: tmp_path / o / n for n in ("pairs", "benchmarks")} for o in ("whole", "out"))
    stage.run(params, **whole)
    with pytest.raises(ArtifactError, match=r"expected what an earlier ingest .* left to retry"):
        stage.run(params, **outs, retry_failed=True)

    away, asked = {"03.jpg", "04.jpg", "11.jpg"}, []
    image = Folder.image

    def flaky(self: Folder, root: Path, row: Row) -> bytes | Refused:
        asked.append(row.name)
        return Refused("HTTP 503", retryable=True) if row.name in away else image(self, root, row)

    monkeypatch.setattr(Folder, "image", flaky)
    stage.run(params, **outs)
    from clipflow.artifacts.pairs import Pairs

    before = Pairs(outs["pairs"])
    had = {
        row.key: row.image for n in range(len(before.shards)) for row in before.rows(n, images=True)
    }
    assert before.manifest["left_out"]["HTTP 503"]["count"] == 3
    asked.clear()
    away -= {"03.jpg", "04.jpg"}
    stage.run(params, **outs, retry_failed=True)
    assert sorted(asked) == ["03.jpg", "04.jpg", "11.jpg"]
    after = Pairs(outs["pairs"])
    now = {
        row.key: row.image for n in range(len(after.shards)) for row in after.rows(n, images=True)
    }
    # 03.jpg came late, so the equal image that was there stays.
    assert had.items() <= now.items()
    assert after.manifest["left_out"]["exact duplicate"]["names"] == ["03.jpg"]
    asked.clear()
    away.clear()
    stage.run(params, **outs, retry_failed=True)
    assert asked == ["11.jpg"]
    shutil.rmtree(tmp_path / "whole/pairs/outcomes")
    assert Pairs(outs["pairs"]).manifest["num_pairs"] == Pairs(whole["pairs"]).manifest["num_pairs"]


def test_two_at_once_are_refused(
    data: Path, ingest_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Folder.image

    def meanwhile(self: Folder, root: Path, row: Row) -> bytes | Refused:
        monkeypatch.setattr(Folder, "image", image)
        with pytest.raises(ClipflowError, match="still going on in another process"):
            ingest_photos(data, out="second")
        return image(self, root, row)

    monkeypatch.setattr(Folder, "image", meanwhile)
    pairs, _ = ingest_photos(data)
    assert len(pairs) == 23
