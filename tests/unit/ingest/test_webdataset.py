"""Existing tar shards, good and bad."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipflow.artifacts import benchmarks
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError
from clipflow.ingest import stage
from fakes.artifacts import jpeg


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def ingest(tmp_path: Path, values: dict[str, Any], stage_params: Any) -> Any:
    def run(data: Path, test_share: float = 0.0) -> tuple[Pairs, list[benchmarks.Task]]:
        values["sources"]["webdataset"]["test_share"] = test_share
        values["ingest"]["duplicates"]["benchmark_bits"] = None  # these images are all alike
        out = {"pairs": tmp_path / "pairs", "benchmarks": tmp_path / "benchmarks"}
        stage.run(stage_params("ingest", source="webdataset", data=str(data)), **out)
        return Pairs(out["pairs"]), benchmarks.read(out["benchmarks"])

    return run


def test_captions_from_txt_or_json_and_images_of_any_kind(tmp_path: Path, ingest: Any) -> None:
    grey = io.BytesIO()
    Image.new("L", (9, 9), 3).save(grey, "PNG")
    (tmp_path / "d").mkdir()
    write_shard(tmp_path / "d/0.tar", {"a.jpg": jpeg(), "a.txt": b" red ", "b.png": grey.getvalue(),
                                       "b.json": json.dumps({"caption": "grey"}).encode()})  # fmt: skip
    write_shard(tmp_path / "d/1.tar", {"c.txt": b"no image", "d.jpg": jpeg(), "e.jpg": b"junk",
                                       "e.txt": b"junk", "a.jpg": jpeg(), "a.txt": b"again"})  # fmt: skip
    pairs, _ = ingest(tmp_path / "d")
    assert pairs.captions == ["red", "grey", "again"]
    left_out = {reason: listed["names"] for reason, listed in pairs.manifest["left_out"].items()}
    assert left_out == {
        "sample without image": ["1.tar/c"],
        "empty caption": ["1.tar/d"],
        "unreadable image": ["1.tar/e"],
    }


def test_keys_are_unique_across_folders_and_shards_and_stay(tmp_path: Path, ingest: Any) -> None:
    (tmp_path / "d/more").mkdir(parents=True)
    members = {f"{n}.{s}": d for n in ("cat/1", "dog/1", "../1") for s, d in
               (("jpg", jpeg()), ("txt", n.encode()))}  # fmt: skip
    write_shard(tmp_path / "d/more/1.tar", members)
    before, _ = ingest(tmp_path / "d")
    assert before.captions == ["cat/1", "dog/1", "../1"]
    keys = before.keys
    assert len(set(keys)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)
    for shard in ("0.tar", "1.tar"):
        write_shard(tmp_path / "d" / shard, members)
    after, _ = ingest(tmp_path / "d")
    assert len(after) == len(set(after.keys)) == 9
    assert set(keys) < set(after.keys)
    with tarfile.open(after.shards[0]) as tar:
        facts = tar.extractfile(f"{keys[0]}.json")
        assert facts
        assert json.load(facts) == {"shard": "more/1.tar", "key": "cat/1"}


def test_names_and_captions_that_are_no_text(tmp_path: Path, ingest: Any) -> None:
    (tmp_path / "d").mkdir()
    write_shard(
        tmp_path / "d/0.tar",
        {"caf\udce9.jpg": jpeg(), "caf\udce9.json": b'{"caption": "a \\ud83d"}'},
    )
    pairs, _ = ingest(tmp_path / "d")
    assert pairs.captions == ["a ?"]


@pytest.mark.parametrize("cut", [700, 30_000])
def test_a_truncated_shard_gives_what_is_whole(tmp_path: Path, ingest: Any, cut: int) -> None:
    members = {f"{n:03d}.{s}": d for n in range(40) for s, d in (("jpg", jpeg()), ("txt", b"a b"))}
    write_shard(tmp_path / "good.tar", members)
    write_shard(tmp_path / "short.tar", {f"s{name}": data for name, data in members.items()})
    short = tmp_path / "short.tar"
    short.write_bytes(short.read_bytes()[:cut])
    pairs, _ = ingest(tmp_path)
    assert 40 <= len(pairs) < 80
    listed = pairs.manifest["left_out"]["truncated or damaged shard"]
    assert listed == {"count": 1, "names": ["short.tar"]}


def test_a_held_out_share_becomes_retrieval(tmp_path: Path, ingest: Any) -> None:
    (tmp_path / "d").mkdir()
    members = {f"{n}.{s}": d for n in range(80) for s, d in (("jpg", jpeg()), ("txt", b"a b"))}
    write_shard(tmp_path / "d/0.tar", members)
    pairs, (task,) = ingest(tmp_path / "d", test_share=0.25)
    assert 5 < task.num_samples["test"] < 40
    assert len(pairs) + task.num_samples["test"] == 80


def test_what_we_wrote_can_be_ingested_again(tmp_path: Path, ingest: Any) -> None:
    from fakes.artifacts import make_pairs

    made = make_pairs(tmp_path / "d", {f"k{n}": f"caption {n}" for n in range(6)})
    again, _ = ingest(made)
    assert again.captions == Pairs(made).captions


def test_no_shards(tmp_path: Path, ingest: Any) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(ArtifactError, match=r"expected \*\.tar shards, found none"):
        ingest(tmp_path / "d")
