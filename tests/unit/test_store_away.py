"""A store that breaks off or goes away in the middle, and tasks that are tried again."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipflow import objects, store
from clipflow.errors import StoreError
from fakes import s3
from fakes.artifacts import make_pairs

URL = "s3://clipflow/pairs"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[s3.Store]:
    with s3.serve() as running:
        running.make_bucket("clipflow")
        for name, value in running.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CLIPFLOW_DATA", str(tmp_path / "data"))
        monkeypatch.setattr(
            objects, "ATTEMPTS", 1
        )  # what boto3 bears is not what is looked at here
        objects.client.cache_clear()
        yield running
    objects.client.cache_clear()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "pairs", {"k": "a caption"})


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_answer_that_breaks_off_is_asked_for_again(server: s3.Store, pairs: Path) -> None:
    store.publish(pairs, URL)
    objects.client.cache_clear()  # another process
    server.fail(truncate=1.0, methods=("GET",))
    threading.Timer(0.5, server.heal).start()
    assert contents(store.at_hand(URL)) == contents(pairs)
    assert server.counts()["truncate"] > 0


def test_a_store_that_goes_away_is_waited_for(server: s3.Store, pairs: Path) -> None:
    server.go_away(1.0, at="PUT")
    store.publish(pairs, URL)
    assert contents(store.at_hand(URL)) == contents(pairs)
    assert server.counts()["away"] > 0


def test_patience_ends(server: s3.Store, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PATIENCE_S", 0.2)
    server.go_away(60, at="PUT")
    start = time.monotonic()
    with pytest.raises(StoreError, match="can't use the object store"):
        store.publish(pairs, URL)
    assert time.monotonic() - start < 30


def test_what_was_made_is_there_for_a_task_that_is_tried_again(
    server: s3.Store, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "scratch"))
    for number in range(3):
        out = {"pairs": tmp_path / f"try{number}"}
        with store.folders({}, out, publish_to="s3://clipflow/runs", made_with="x") as paths:
            assert paths["pairs"].exists() == (number == 1)
            if number != 1:
                shutil.copytree(pairs, paths["pairs"])
        assert contents(store.at_hand(out["pairs"])) == contents(pairs)
        if number == 1:
            shutil.rmtree(tmp_path / "data")  # to have room: it is made again


def test_publishing_takes_no_file_from_under_a_reader(
    server: s3.Store, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "scratch"))
    inodes = []
    for made_with in ("one run", "another"):
        out = {"pairs": tmp_path / made_with}
        with store.folders({}, out, publish_to="s3://clipflow/runs", made_with=made_with) as paths:
            shutil.copytree(pairs, paths["pairs"])
        here = store.at_hand(out["pairs"])
        inodes.append({file.name: file.stat().st_ino for file in here.iterdir()})
    assert inodes[0] == inodes[1]
