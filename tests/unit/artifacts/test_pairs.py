"""Shards that any webdataset reader reads, and that can be read at random."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipflow.artifacts import manifest, rewrites
from clipflow.artifacts.pairs import TAR_FORMAT, Pairs, Writer, add_file
from clipflow.errors import ArtifactError
from fakes.artifacts import jpeg, make_pairs, make_rewrites

CAPTIONS = {f"k{n}": f"caption {n}" for n in range(7)}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "pairs", CAPTIONS, samples_per_shard=3)


def jpeg_in_tar(tar: Path, index: pa.Table, row: int) -> bytes:
    """What the index says a row's JPEG is."""
    offset = index["offset"][row].as_py()
    return tar.read_bytes()[offset : offset + index["size"][row].as_py()]


def test_the_index_points_into_the_tar(pairs: Path) -> None:
    read = Pairs(pairs)
    assert len(read) == 7
    assert dict(zip(read.keys, read.captions, strict=True)) == CAPTIONS
    assert [len(index) for index in read.indexes()] == [3, 3, 1]
    for path, index in zip(read.shards, read.indexes(), strict=True):
        with tarfile.open(path) as tar:
            for row, key in enumerate(index["key"].to_pylist()):
                member = tar.extractfile(f"{key}.jpg")
                assert member
                assert member.read() == jpeg_in_tar(path, index, row)


def test_equal_input_gives_equal_bytes(tmp_path: Path, pairs: Path) -> None:
    again = make_pairs(tmp_path / "again", CAPTIONS, samples_per_shard=3)
    assert manifest.digest(pairs) == manifest.digest(again)
    assert (pairs / "00001.tar").read_bytes() == (again / "00001.tar").read_bytes()


def test_truncated_shard_is_refused(pairs: Path) -> None:
    shard = pairs / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"00001\.tar: truncated, expected at least"):
        Pairs(pairs)


def test_damaged_index_is_refused(pairs: Path) -> None:
    (pairs / "00000.parquet").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"00000\.parquet: missing or damaged index"):
        Pairs(pairs)


def test_duplicate_keys_are_counted(tmp_path: Path) -> None:
    with manifest.complete_or_absent(tmp_path / "p") as folder:
        writer = Writer(folder, 10)
        for _ in range(2):
            writer.add("same", jpeg(), "text", {})
        writer.close()
    left_out = Pairs(tmp_path / "p").manifest["left_out"]
    assert left_out == {"duplicate key": {"count": 1, "names": ["same"]}}


def test_long_keys_have_an_index_too(tmp_path: Path) -> None:
    key = "k" * 200
    read = Pairs(make_pairs(tmp_path / "long", {"short": "a", key: "b"}))
    assert read.keys == ["short", key]
    (index,) = read.indexes()
    with tarfile.open(read.shards[0]) as tar:
        for row, name in enumerate(read.keys):
            member = tar.extractfile(f"{name}.jpg")
            assert member
            assert member.read() == jpeg_in_tar(read.shards[0], index, row)


def test_short_names_take_the_bytes_of_ustar(tmp_path: Path) -> None:
    for name, kind in (("pax", TAR_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        with tarfile.open(tmp_path / name, "w", format=kind) as tar:
            add_file(tar, "00000000.jpg", jpeg())
    assert (tmp_path / "pax").read_bytes() == (tmp_path / "ustar").read_bytes()


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 10)
    writer.leave_out("unreadable image", "a.jpg")
    with pytest.raises(ArtifactError, match=r"no usable image-caption pair .*: 1 unreadable image"):
        writer.close()


def reordered(path: Path) -> bytes:
    """A parquet file with its rows in the opposite order."""
    table = pq.read_table(path)
    out = io.BytesIO()
    pq.write_table(table.take(list(reversed(range(len(table))))), out)
    return out.getvalue()


def test_rewrites_join_by_key_whatever_the_order(tmp_path: Path, pairs: Path) -> None:
    texts = {key: [f"{key} a", f"{key} b"] for key in reversed(CAPTIONS)}
    made = make_rewrites(tmp_path / "r", pairs, texts)
    (tmp_path / "r" / "00000.parquet").write_bytes(reordered(tmp_path / "r" / "00000.parquet"))
    for index, aligned in rewrites.by_shard(made, Pairs(pairs)):
        assert aligned.to_pylist() == [texts[key] for key in index["key"].to_pylist()]


def test_rewrites_of_other_pairs_are_refused(tmp_path: Path, pairs: Path) -> None:
    others = make_pairs(tmp_path / "others", {f"x{n}": "text" for n in range(7)})
    made = make_rewrites(tmp_path / "r", others, {})
    with pytest.raises(ArtifactError, match="3 of 3 pairs have no row, the first of them 'k0'"):
        list(rewrites.by_shard(made, Pairs(pairs)))


def test_rewrites_of_other_captions_with_the_same_keys_are_refused(
    tmp_path: Path, pairs: Path
) -> None:
    made = tmp_path / "r"
    with manifest.complete_or_absent(made) as folder:
        writer = rewrites.Writer(folder)
        for name, keys, _ in Pairs(pairs).by_shard():
            writer.add_shard(name, {key: [] for key in keys})
        writer.close(pairs=manifest.digest(pairs))
    assert sum(len(aligned) for _, aligned in rewrites.by_shard(made, Pairs(pairs))) == 7
    others = make_pairs(tmp_path / "others", dict.fromkeys(CAPTIONS, "other words"), 3)
    with pytest.raises(ArtifactError, match="made of other pairs"):
        list(rewrites.by_shard(made, Pairs(others)))
