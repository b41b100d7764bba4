"""Sources in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipflow import objects, store
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import StoreError
from clipflow.ingest import stage
from fakes import s3
from fakes.artifacts import make_pairs
from unit.ingest.conftest import photo, write_photos


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Store]:
    with s3.serve() as server:
        server.make_bucket("lake")
        yield server


@pytest.fixture(autouse=True)
def _environment(server: s3.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**server.environ, "CLIPFLOW_DATA": str(tmp_path / "data")}.items():
        monkeypatch.setenv(name, value)
    objects.client.cache_clear()


def upload(server: s3.Store, folder: Path, prefix: str) -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            server.client().upload_file(str(file), "lake", f"{prefix}/{name}")
    return f"s3://lake/{prefix}"


def test_a_folder_and_what_changes_in_it(
    tmp_path: Path, server: s3.Store, ingest_photos: Any, stage_params: Any
) -> None:
    data = write_photos(tmp_path / "d", {f"{n}.jpg": f"number {n}" for n in range(8)})
    (data / "sub").mkdir()
    url = upload(server, data, "photos")
    local = ingest_photos(data, out="local")[0].keys
    assert ingest_photos(url)[0].keys == local
    params = stage_params("ingest", source="folder", data=url)
    before = stage.fingerprint(params)
    gets = server.counts()["GET"]
    assert ingest_photos(url)[0].keys == local
    assert server.counts()["GET"] - gets < 8  # listings; the images are here
    # Another photo of the same size under the same name, and one less.
    server.client().put_object(Bucket="lake", Key="photos/3.jpg", Body=photo(77))
    server.client().delete_object(Bucket="lake", Key="photos/5.jpg")
    assert stage.fingerprint(params) != before
    pairs, _ = ingest_photos(url)
    assert pairs.manifest["left_out"]["no such image"]["names"] == ["5.jpg"]
    images = {row.caption: row.image for row in pairs.rows(0, images=True)}
    assert images["number 3"] == photo(77)


def test_shards_and_a_single_file_through_a_bad_line(
    tmp_path: Path, server: s3.Store, values: dict[str, Any], stage_params: Any
) -> None:
    made = make_pairs(tmp_path / "made", {f"k{n}": f"caption {n}" for n in range(9)}, 4)
    url = upload(server, made, "shards")
    values["sources"]["webdataset"] |= {"test_share": 0.0, "keep_keys": True}
    outs = {name: tmp_path / name for name in ("pairs", "benchmarks")}
    server.fail(0.2, truncate=0.1)
    try:
        stage.run(stage_params("ingest", source="webdataset", data=url), **outs)
    finally:
        server.heal()
    # The keys are kept, so that rewrites of the pairs still join; 9 samples of three shards are now one.
    assert Pairs(outs["pairs"]).keys == [f"k{n}" for n in range(9)]
    assert len(Pairs(outs["pairs"]).shards) == 1
    stage.run(stage_params("ingest", source="webdataset", data=f"{url}/00001.tar"), **outs)
    assert Pairs(outs["pairs"]).keys == [f"k{n}" for n in range(4, 8)]


def test_nothing_there_and_names_that_lead_out(tmp_path: Path, server: s3.Store) -> None:
    with pytest.raises(StoreError, match="expected objects, found none there"):
        store.mirror("s3://lake/nothing")
    server.client().put_object(Bucket="lake", Key="bad/../../out.jpg", Body=b"x")
    with pytest.raises(StoreError, match="a name that leads out of its folder"):
        store.mirror("s3://lake/bad")
    assert not list(Path(os.environ["CLIPFLOW_DATA"]).rglob("out.jpg"))
