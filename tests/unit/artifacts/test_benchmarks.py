"""Benchmarks in the layout that CLIP-benchmark reads."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from clipflow.artifacts import benchmarks, manifest
from clipflow.errors import ArtifactError
from fakes.artifacts import jpeg


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with manifest.complete_or_absent(tmp_path / "b") as partial:
        writer = benchmarks.Writer(partial)
        rows = [(jpeg(), 0), (jpeg(), 1), (jpeg(), 1)]
        writer.add_classification(
            "pets", ["cat", "dog"], ["a photo of a {c}."], {"test": rows}, [["kitten"], ["hound"]]
        )
        writer.add_retrieval("photos", [(jpeg(), ["one", "two"])])
        writer.close()
    return tmp_path / "b"


def test_layout(folder: Path) -> None:
    assert (folder / "pets/classnames.txt").read_text() == "cat\ndog\n"
    assert (folder / "pets/zeroshot_classification_templates.txt").read_text().count("{c}") == 1
    assert (folder / "pets/test/nshards.txt").read_text().strip() == "1"
    with tarfile.open(folder / "pets/test/0.tar") as tar:
        names = tar.getnames()
    assert names[:2] == ["s0000000.jpg", "s0000000.cls"]


def test_reading(folder: Path) -> None:
    pets, photos = benchmarks.read(folder)
    assert (pets.kind, pets.classnames, pets.splits) == ("classification", ["cat", "dog"], ["test"])
    assert pets.synonyms == [["kitten"], ["hound"]]
    assert [label for _, label in pets.samples("test")] == [b"0", b"1", b"1"]
    assert photos.kind == "retrieval"
    assert [texts for _, texts in photos.samples("test")] == [b"one\ntwo"]


def test_samples_as_they_come(tmp_path: Path) -> None:
    writer = benchmarks.Writer(tmp_path)
    with writer.classification("pets", ["cat", "dog"], ["a {c}"]) as pets:
        for label, split in enumerate(("train", "test")):
            pets.add(split, jpeg(), label)
    with writer.retrieval("photos") as photos:
        photos.add("test", jpeg(), ["one\nline", "two"])
    with writer.classification("untested", ["cat"], ["a {c}"]) as untested:
        untested.add("train", jpeg(), 0)
    writer.close()
    read_pets, read_photos = benchmarks.read(tmp_path)
    assert [label for _, label in read_pets.samples("test")] == [b"1"]
    assert [texts for _, texts in read_photos.samples("test")] == [b"one line\ntwo"]
    assert not (tmp_path / "untested").exists()


def test_truncated_tar_is_refused(folder: Path) -> None:
    tar = folder / "pets/test/0.tar"
    tar.write_bytes(tar.read_bytes()[:2500])
    (pets, _) = benchmarks.read(folder)
    with pytest.raises(ArtifactError, match=r"0\.tar"):
        list(pets.samples("test"))
