"""Rules, duplicates and curation as the stage applies them: who is left out, and under which name."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipflow.artifacts import pairs as artifact
from clipflow.artifacts.pairs import Pairs, key_of
from clipflow.errors import ArtifactError
from unit.ingest.conftest import photo, write_photos


def left_out(pairs: Pairs) -> dict[str, list[str]]:
    return {reason: listed["names"] for reason, listed in pairs.manifest["left_out"].items()}


def test_each_reason_has_its_name(tmp_path: Path, ingest_photos: Any) -> None:
    data = write_photos(
        tmp_path / "d",
        {"good.jpg": "a red cat", "short.jpg": "cat", "small.jpg": "a small cat", "bad.jpg": "a bad cat",
         "long.jpg": "a long cat"},
    )  # fmt: skip
    (data / "small.jpg").write_bytes(photo(1, size_px=20))
    (data / "bad.jpg").write_bytes(b"<html>not found</html>")
    Image.new("RGB", (300, 40), "red").save(data / "long.jpg")
    pairs, _ = ingest_photos(
        data, captions={"min_words": 2}, images={"min_side_px": 32, "max_aspect_ratio": 3.0}
    )
    assert pairs.captions == ["a red cat"]
    assert left_out(pairs) == {
        "caption of too few words": ["short.jpg"],
        "too small": ["small.jpg"],
        "unreadable image": ["bad.jpg"],
        "too long or too wide": ["long.jpg"],
    }
    (table,) = artifact.outcomes(pairs.folder)
    found = dict(zip(table["name"].to_pylist(), table["step"].to_pylist(), strict=True))
    assert found == {"good.jpg": "", "short.jpg": "row", "small.jpg": "image", "bad.jpg": "image",
                     "long.jpg": "image"}  # fmt: skip


def test_images_are_stored_at_the_size_that_is_asked(tmp_path: Path, ingest_photos: Any) -> None:
    data = write_photos(tmp_path / "d", {"a.jpg": "a cat"})
    Image.new("RGB", (300, 200), "red").save(data / "a.jpg")
    pairs, _ = ingest_photos(data, images={"resize": "shorter_side", "size_px": 100})
    (row,) = pairs.rows(0, images=True)
    assert Image.open(io.BytesIO(row.image)).size == (150, 100)


def test_of_equal_images_the_first_stays(tmp_path: Path, ingest_photos: Any) -> None:
    data = write_photos(tmp_path / "d", {f"{n}.jpg": f"number {n}" for n in range(6)})
    (data / "4.jpg").write_bytes((data / "1.jpg").read_bytes())
    (data / "5.jpg").write_bytes(photo(2, quality=60))  # image 2 once more, otherwise encoded
    everything, _ = ingest_photos(data)
    assert len(everything) == 6
    pairs, _ = ingest_photos(data, duplicates={"exact": True})
    assert left_out(pairs) == {"exact duplicate": ["4.jpg"]}
    pairs, _ = ingest_photos(data, duplicates={"exact": True, "near_bits": 16})
    assert left_out(pairs) == {"exact duplicate": ["4.jpg"], "near duplicate": ["5.jpg"]}
    assert pairs.captions == [f"number {n}" for n in range(4)]


def test_what_is_measured_by_is_not_trained_on(tmp_path: Path, ingest_photos: Any) -> None:
    names = [f"{n}.jpg" for n in range(60)]
    data = write_photos(tmp_path / "d", {name: f"photo {name}" for name in names})
    _, (task,) = ingest_photos(data, test_share=0.2)
    images = {image for image, _ in task.samples("test")}
    held = [name for name in names if (data / name).read_bytes() in images]
    trained = [name for name in names if name not in held][:2]
    # One is byte for byte a held-out one, another is one encoded anew.
    (data / trained[0]).write_bytes((data / held[0]).read_bytes())
    (data / trained[1]).write_bytes(photo(names.index(held[1]), quality=50))
    pairs, _ = ingest_photos(data, test_share=0.2, duplicates={"benchmark_bits": 0})
    assert left_out(pairs)["in a benchmark"] == [trained[0]]
    pairs, _ = ingest_photos(data, test_share=0.2, duplicates={"benchmark_bits": 16})
    assert left_out(pairs)["in a benchmark"] == sorted(trained)


def test_benchmarks_of_others_are_kept_out_too(tmp_path: Path, ingest_photos: Any) -> None:
    data = write_photos(tmp_path / "d", {f"{n}.jpg": f"number {n}" for n in range(40)})
    _, (task,) = ingest_photos(data, out="theirs", test_share=0.2)
    images = {image for image, _ in task.samples("test")}
    pairs, tasks = ingest_photos(data, decontaminate=[str(tmp_path / "theirs/benchmarks")])
    assert tasks == []
    names = left_out(pairs)["in a benchmark"]
    assert {(data / name).read_bytes() for name in names} == images
    assert len(pairs) == 40 - len(names)
    with pytest.raises(ArtifactError, match=r"expected clipflow\.benchmarks/1"):
        ingest_photos(data, decontaminate=[str(tmp_path / "theirs/pairs")])


def test_curation_thins_what_is_common(tmp_path: Path, ingest_photos: Any) -> None:
    captions = {f"{n}.jpg": "a dog" if n < 50 else f"a heron {n}" for n in range(55)}
    data = write_photos(tmp_path / "d", captions | {"x.jpg": "nothing known"})
    (tmp_path / "list.json").write_text(json.dumps(["dog", "heron"]))
    pairs, _ = ingest_photos(data, curation={"metadata_file": str(tmp_path / "list.json"), "t": 10})
    dogs = sum(caption == "a dog" for caption in pairs.captions)
    assert 3 <= dogs <= 20
    assert len(pairs) == dogs + 5
    assert "x.jpg" in left_out(pairs)["not drawn by curation"]
    assert pairs.manifest["curation"]["num_captions"] == 56


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_grows_and_a_limit_is_its_beginning(
    tmp_path: Path, ingest_photos: Any, seed: int
) -> None:
    data = write_photos(tmp_path / "d", {f"{n:03d}.jpg": f"number {n}" for n in range(60)})
    fifth = ingest_photos(data, sample=0.2, seed=seed)[0].keys
    half = ingest_photos(data, sample=0.5, seed=seed)[0].keys
    assert 3 < len(fifth) < 25
    assert 18 < len(half) < 45
    assert set(fifth) < set(half)
    assert ingest_photos(data, sample=0.5, limit=5, seed=seed)[0].keys == half[:5]
    write_photos(data, {f"{n:03d}.jpg": f"number {n}" for n in range(80)})
    assert set(half) < set(ingest_photos(data, sample=0.5, seed=seed)[0].keys)


def test_a_list_of_keys(tmp_path: Path, ingest_photos: Any) -> None:
    data = write_photos(tmp_path / "d", {f"{n}.jpg": f"number {n}" for n in range(9)})
    keys = [key_of("7.jpg"), key_of("2.jpg"), "unknown"]
    (tmp_path / "keys").write_text("\n".join(keys))
    pairs, _ = ingest_photos(data, keys_file=str(tmp_path / "keys"))
    assert pairs.captions == ["number 2", "number 7"]
    with pytest.raises(ArtifactError, match=r"ingest.keys_file: expected a file with a key a line"):
        ingest_photos(data, keys_file=str(tmp_path / "gone"))
