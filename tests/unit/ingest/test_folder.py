"""Images on disk: class folders, or a captions file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipflow.artifacts import benchmarks
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError
from clipflow.ingest import stage
from fakes.artifacts import jpeg


@pytest.fixture
def ingest(tmp_path: Path, values: dict[str, Any], stage_params: Any) -> Any:
    """`ingest(data, **folder_params)`: run the stage, return pairs and the tasks."""

    def run(data: Path, **changes: Any) -> tuple[Pairs, list[benchmarks.Task]]:
        values["sources"]["folder"].update(changes)
        out = {"pairs": tmp_path / "pairs", "benchmarks": tmp_path / "benchmarks"}
        stage.run(stage_params("ingest", source="folder", data=str(data)), **out)
        return Pairs(out["pairs"]), benchmarks.read(out["benchmarks"])

    return run


def write_images(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((number, number, 99)))


def test_class_folders_with_a_split(tmp_path: Path, ingest: Any) -> None:
    data = tmp_path / "pets"
    write_images(data, [f"{s}/{c}/{n}.jpg" for s in ("train", "test") for c in ("cat", "fire_dog")
                        for n in range(4)])  # fmt: skip
    pairs, (task,) = ingest(data)
    assert len(pairs) == 8
    assert all(("cat" in c) or ("fire dog" in c) for c in pairs.captions)
    assert (task.name, task.classnames, task.splits) == (
        "pets",
        ["cat", "fire dog"],
        ["train", "test"],
    )
    assert [label for _, label in task.samples("test")] == [b"0"] * 4 + [b"1"] * 4


def test_class_folders_without_a_split_hold_some_out(tmp_path: Path, ingest: Any) -> None:
    write_images(tmp_path / "d", [f"{c}/{n}.png" for c in "ab" for n in range(40)])
    pairs, (task,) = ingest(tmp_path / "d", test_share=0.25)
    assert 5 < task.num_samples["test"] < 35
    assert len(pairs) + task.num_samples["test"] == 80


def test_adding_images_renumbers_nothing(tmp_path: Path, ingest: Any) -> None:
    write_images(tmp_path / "d", [f"a/{n}.jpg" for n in range(5)])
    before, _ = ingest(tmp_path / "d", test_share=0.0)
    kept = dict(zip(before.keys, before.captions, strict=True))
    write_images(tmp_path / "d", [f"a/0{n}.jpg" for n in range(5)])
    after, _ = ingest(tmp_path / "d", test_share=0.0)
    assert kept.items() <= dict(zip(after.keys, after.captions, strict=True)).items()


def test_captions_file(tmp_path: Path, ingest: Any) -> None:
    data = tmp_path / "d"
    write_images(data, ["a.jpg", "sub/b.jpg", "extra.jpg", "c.jpg"])
    (data / "broken.jpg").write_bytes(jpeg(size_px=64)[:200])
    table = tmp_path / "captions.csv"
    table.write_text("filepath,title\na.jpg,a cat\nsub/b.jpg,\"a dog, asleep\"\nc.jpg,  \n"
                     "gone.jpg,missing\nbroken.jpg,half\n")  # fmt: skip
    pairs, tasks = ingest(data, captions_file=str(table), test_share=0.0)
    assert sorted(pairs.captions) == ["a cat", "a dog, asleep"]
    assert tasks == []
    left_out = {reason: listed["names"] for reason, listed in pairs.manifest["left_out"].items()}
    assert left_out == {
        "empty caption": ["c.jpg"],
        "no such image": ["gone.jpg"],
        "unreadable image": ["broken.jpg"],
        "image without caption": ["broken.jpg", "extra.jpg"]
        if "broken.jpg" not in table.read_text()
        else ["extra.jpg"],
    }


def test_tsv_with_other_columns_and_a_held_out_share(tmp_path: Path, ingest: Any) -> None:
    data = tmp_path / "d"
    write_images(data, [f"{n}.jpg" for n in range(60)])
    table = tmp_path / "laclip.tsv"
    table.write_text("img\ttext\n" + "".join(f"{n}.jpg\tnumber {n}\n" for n in range(60)))
    pairs, (task,) = ingest(
        data, captions_file=str(table), image_column="img", caption_column="text", test_share=0.3
    )
    assert task.kind == "retrieval"
    assert len(pairs) + task.num_samples["test"] == 60
    held = {texts.decode() for _, texts in task.samples("test")}
    assert held.isdisjoint(pairs.captions)


def test_wrong_input_is_one_clear_line(tmp_path: Path, ingest: Any) -> None:
    with pytest.raises(ArtifactError, match="expected a folder of images, found nothing there"):
        ingest(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="expected class folders of images, found none"):
        ingest(tmp_path / "empty")
    write_images(tmp_path / "d", ["a.jpg"])
    table = tmp_path / "t.csv"
    table.write_text("filepath,caption\na.jpg,x y\n")
    with pytest.raises(ArtifactError, match="expected a column 'title'"):
        ingest(tmp_path / "d", captions_file=str(table))
    table.write_text("filepath,title\nother.jpg,x y\n")
    with pytest.raises(
        ArtifactError, match=r"no usable .* 1 image without caption, 1 no such image"
    ):
        ingest(tmp_path / "d", captions_file=str(table))
    assert not (tmp_path / "pairs").exists()


def test_templates_file_must_have_the_class(tmp_path: Path, ingest: Any) -> None:
    write_images(tmp_path / "d", ["a/1.jpg"])
    (tmp_path / "t.txt").write_text("a photo\n")
    with pytest.raises(ArtifactError, match=r"expected \{c\} for the class"):
        ingest(tmp_path / "d", templates_file=str(tmp_path / "t.txt"))


def test_facts_travel_with_the_sample(tmp_path: Path, ingest: Any) -> None:
    import tarfile

    write_images(tmp_path / "d", ["a/1.jpg"])
    pairs, _ = ingest(tmp_path / "d", test_share=0.0)
    with tarfile.open(pairs.shards[0]) as tar:
        member = tar.extractfile(f"{pairs.keys[0]}.json")
        assert member
        assert json.load(member) == {"path": "a/1.jpg", "class": "a"}
