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
        values["ingest"]["duplicates"]["benchmark_bits"] = None  # these images are all alike
        out = {"pairs": tmp_path / "pairs", "benchmarks": tmp_path / "benchmarks"}
        stage.run(stage_params("ingest", source="folder", data=str(data)), **out)
        return Pairs(out["pairs"]), benchmarks.read(out["benchmarks"])

    return run


def write_images(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((number, number, 99)))


def left_out(pairs: Pairs) -> dict[str, list[str]]:
    """The listed names by reason."""
    return {reason: listed["names"] for reason, listed in pairs.manifest["left_out"].items()}


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
    table = data / "captions.csv"
    table.write_text("filepath,title\na.jpg,a cat\nsub/b.jpg,\"a dog, asleep\"\nc.jpg,  \n"
                     "gone.jpg,missing\nbroken.jpg,half\n")  # fmt: skip
    pairs, tasks = ingest(data, captions_file="captions.csv", test_share=0.0)
    assert sorted(pairs.captions) == ["a cat", "a dog, asleep"]
    assert tasks == []
    assert left_out(pairs) == {
        "empty caption": ["c.jpg"],
        "no such image": ["gone.jpg"],
        "unreadable image": ["broken.jpg"],
        "image without caption": ["extra.jpg"],
    }


def test_several_captions_of_one_image(tmp_path: Path, ingest: Any) -> None:
    data = tmp_path / "d"
    write_images(data, [f"{n}.jpg" for n in range(40)])
    rows = "".join(f"{n}.jpg,{n} {text}\n" for text in ("one", "two", "") for n in range(40))
    (data / "t.csv").write_text("filepath,title\n" + rows)
    pairs, (task,) = ingest(data, captions_file="t.csv", test_share=0.5)
    assert all(caption.endswith(" one") for caption in pairs.captions)
    for _, texts in task.samples("test"):
        assert [text.split()[1:] for text in texts.decode().splitlines()] == [["one"], ["two"], []]
    again = left_out(pairs)["another caption of the same image"]
    assert len(again) == 2 * len(pairs)
    assert set(again) == {f"{caption.split()[0]}.jpg" for caption in pairs.captions}


def test_malformed_rows_are_left_out_alone(tmp_path: Path, ingest: Any) -> None:
    data = tmp_path / "d"
    write_images(data, [f"{n}.jpg" for n in range(6)])
    for suffix, tab in (("tsv", "\t"), ("csv", ",")):
        rows = ["filepath,title", "0.jpg,first", "1.jpg", "", f"2.jpg,{'long ' * 40_000}",
                ",nameless", "3.jpg,one,two", "4.jpg,fourth", "5\0.jpg,no such name"]  # fmt: skip
        text = "\n".join(rows).replace(",", tab) + "\n"
        (data / f"t.{suffix}").write_text(text)
        pairs, _ = ingest(data, captions_file=f"t.{suffix}", test_share=0.0)
        assert pairs.captions == ["first", "fourth"]
        found = left_out(pairs)
        assert found["malformed row"] == ["line 3", "line 5", "line 6", "line 7"]
        assert found["no such image"] == ["5\0.jpg"]


def test_quotes_in_a_tsv_are_plain_characters(tmp_path: Path, ingest: Any) -> None:
    data = tmp_path / "d"
    write_images(data, ["a.jpg", "b.jpg"])
    (data / "t.tsv").write_text('filepath\ttitle\na.jpg\t"a 5" screen\nb.jpg\ta "cat\n')
    pairs, _ = ingest(data, captions_file="t.tsv", test_share=0.0)
    assert pairs.captions == ['"a 5" screen', 'a "cat']


def test_a_captions_file_of_another_encoding_is_one_clear_line(tmp_path: Path, ingest: Any) -> None:
    write_images(tmp_path / "d", ["a.jpg"])
    (tmp_path / "d/t.csv").write_bytes(b"filepath,title\na.jpg,caf\xe9\n")
    with pytest.raises(ArtifactError, match=r"t.csv: expected UTF-8, got the byte 0xe9 in line 2"):
        ingest(tmp_path / "d", captions_file="t.csv")
    with pytest.raises(ArtifactError, match=r"expected a captions CSV or TSV, found no such file"):
        ingest(tmp_path / "d", captions_file="gone.csv")


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
    for text in ("a photo\n", ""):
        (tmp_path / "d/t.txt").write_text(text)
        with pytest.raises(ArtifactError, match=r"expected \{c\} for the class"):
            ingest(tmp_path / "d", templates_file="t.txt")
    (tmp_path / "t.txt").write_text("my {c}\n")
    pairs, _ = ingest(tmp_path / "d", templates_file=str(tmp_path / "t.txt"), test_share=0.0)
    assert pairs.captions == ["my a"]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path, ingest: Any) -> None:
    write_images(tmp_path / "d", ["a/1.jpg", "a/.ipynb_checkpoints/1.jpg", "a/._1.jpg", ".b/1.jpg"])
    pairs, _ = ingest(tmp_path / "d", test_share=0.0)
    assert len(pairs) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/fire_dog/1.jpg", "train/fire-dog/1.jpg", "test/fire_dog/1.jpg"],
         "got 'fire-dog' and 'fire_dog', both called 'fire dog'"),
        (["train/cat/1.jpg", "test/cat/1.jpg", "test/eel/1.jpg"], "got also eel"),
    ],
)  # fmt: skip
def test_classes_that_do_not_fit(
    tmp_path: Path, ingest: Any, names: list[str], message: str
) -> None:
    write_images(tmp_path / "d", names)
    with pytest.raises(ArtifactError, match=message):
        ingest(tmp_path / "d")


def test_the_task_name_is_legal_for_mlflow(tmp_path: Path, ingest: Any) -> None:
    write_images(tmp_path / "my pets (v1.2)", [f"{s}/cat/1.jpg" for s in ("train", "test")])
    _, (task,) = ingest(tmp_path / "my pets (v1.2)")
    assert task.name == "my-pets--v1-2-"


def test_facts_travel_with_the_sample(tmp_path: Path, ingest: Any) -> None:
    import tarfile

    write_images(tmp_path / "d", ["a/1.jpg"])
    pairs, _ = ingest(tmp_path / "d", test_share=0.0)
    with tarfile.open(pairs.shards[0]) as tar:
        member = tar.extractfile(f"{pairs.keys[0]}.json")
        assert member
        assert json.load(member) == {"path": "a/1.jpg", "class": "a"}
