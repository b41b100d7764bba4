"""Artifacts go to an object store and come back: through a real S3 protocol, also when it fails."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clipflow import objects, store
from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Pairs, without_images
from clipflow.errors import ArtifactError, StoreError
from fakes import s3
from fakes.artifacts import make_pairs

CAPTIONS = {f"k{n:02d}": f"caption {n}" for n in range(9)}
URL = "s3://clipflow/pairs"


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Store]:
    with s3.serve() as running:
        running.make_bucket("clipflow")
        yield running


@pytest.fixture(autouse=True)
def _environ(server: s3.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLIPFLOW_DATA", str(tmp_path / "data"))
    objects.client.cache_clear()
    server.heal()
    yield
    client = server.client()
    for key in server.objects("clipflow"):
        client.delete_object(Bucket="clipflow", Key=key)
    objects.client.cache_clear()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "pairs", CAPTIONS, samples_per_shard=4)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()
    }


def interrupted(inputs: dict[str, Path], outputs: dict[str, Path], made_with: str) -> Path:
    """Where a task that fails was making its output."""
    with (
        suppress(RuntimeError),
        store.folders(
            inputs, outputs, publish_to="s3://clipflow/runs", made_with=made_with
        ) as paths,
    ):
        raise RuntimeError
    return paths["rewrites"]


def test_round_trip(pairs: Path) -> None:
    store.publish(pairs, URL)
    here = store.at_hand(URL)
    assert contents(here) == contents(pairs)
    assert manifest.digest(here) == manifest.digest(pairs)


def test_a_local_folder_is_at_hand(pairs: Path) -> None:
    assert store.at_hand(pairs) == pairs
    assert store.at_hand(str(pairs)) == pairs


def test_only_what_is_wanted_is_fetched(pairs: Path, server: s3.Store) -> None:
    store.publish(pairs, URL)
    here = store.at_hand(URL, without_images)
    assert not list(here.glob("*.tar"))
    assert [row.caption for row in Pairs(here, images=False).rows(0)] == list(CAPTIONS.values())[:4]
    with pytest.raises(ArtifactError, match=r"00000\.tar: truncated"):
        Pairs(here)
    assert contents(store.at_hand(URL)) == contents(pairs)  # and the rest later


def test_fetched_once(pairs: Path, server: s3.Store) -> None:
    store.publish(pairs, URL)
    store.at_hand(URL)
    before = server.counts()["requests"]
    store.at_hand(URL)
    assert server.counts()["requests"] - before == 2  # the manifest and a listing


def test_two_processes_at_once_fetch_it_once(pairs: Path, server: s3.Store) -> None:
    store.publish(pairs, URL)
    before = server.counts().get("GET", 0)
    threads = [threading.Thread(target=store.at_hand, args=(URL,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    num_files = len(contents(pairs))
    # each reads the manifest and the listing, and one of them the files
    assert server.counts()["GET"] - before <= 2 * 2 + num_files


def test_publishing_again_sends_nothing(pairs: Path, server: s3.Store) -> None:
    store.publish(pairs, URL)
    before = server.counts()["PUT"]
    store.publish(pairs, URL)
    assert server.counts()["PUT"] == before


def test_another_artifact_takes_the_place_wholly(pairs: Path, tmp_path: Path) -> None:
    store.publish(pairs, URL)
    other = make_pairs(tmp_path / "other", {"a": "one pair"})
    store.publish(other, URL)
    assert contents(store.at_hand(URL)) == contents(other)


def test_without_its_manifest_it_is_not_there(pairs: Path, server: s3.Store) -> None:
    store.publish(pairs, URL)
    server.client().delete_object(Bucket="clipflow", Key="pairs/manifest.json")
    with pytest.raises(
        StoreError, match=r"s3://clipflow/pairs: expected an artifact, no manifest\.json"
    ):
        store.at_hand(URL)


def test_outputs_are_published_and_referred_to(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "scratch"))
    reference = tmp_path / "kfp" / "pairs"
    with store.folders({}, {"pairs": reference}, publish_to="s3://clipflow/runs/") as paths:
        shutil.copytree(pairs, paths["pairs"])
    assert sorted(contents(reference)) == ["manifest.json", "store.json"]
    assert manifest.digest(reference) == manifest.digest(pairs)
    url = store.url_of(reference)
    assert url.startswith("s3://clipflow/runs/pairs/")
    shutil.rmtree(tmp_path / "data")  # another machine
    assert contents(store.at_hand(reference)) == contents(pairs)
    assert paths["pairs"].is_symlink()  # what was made lies in data; a task tried again finds it


def test_a_stage_that_fails_publishes_nothing_and_is_found_again(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: s3.Store
) -> None:
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "scratch"))
    # each try of a task has an output folder of its own
    outs = [{"rewrites": tmp_path / f"try{n}"} for n in range(2)]
    places = [interrupted({"pairs": pairs}, out, "x") for out in outs]
    assert places[0] == places[1]
    assert server.objects("clipflow") == {}


def test_other_params_or_inputs_are_made_elsewhere(pairs: Path, tmp_path: Path) -> None:
    other = make_pairs(tmp_path / "other", {"a": "one pair"})
    out = {"rewrites": tmp_path / "out"}
    tasks = [(pairs, "x"), (pairs, "y"), (other, "x")]
    places = {interrupted({"pairs": of}, out, made_with) for of, made_with in tasks}
    assert len(places) == 3


def test_faults_are_borne(pairs: Path, server: s3.Store) -> None:
    server.fail(0.2, drop=0.05)
    store.publish(pairs, URL)
    assert contents(store.at_hand(URL)) == contents(pairs)
    assert server.counts()["error"] > 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://clipflow", "expected s3://BUCKET/PATH"),
        ("s3://absent/pairs", "answered NoSuchBucket; make the bucket"),
        ("s3://clipflow/absent", "expected an artifact, no manifest.json there"),
    ],
)
def test_wrong_urls_are_one_line(url: str, message: str) -> None:
    with pytest.raises(StoreError) as error:
        store.at_hand(url)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_credentials_are_one_line(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="check AWS_ACCESS_KEY_ID"):
        store.publish(pairs, URL)


def test_no_store_is_one_line(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr(objects, "ATTEMPTS", 1)
    with pytest.raises(StoreError, match="can't use the object store"):
        store.publish(pairs, URL)


def test_a_folder_that_is_no_reference(pairs: Path) -> None:
    with pytest.raises(ArtifactError, match=r"found no store\.json there"):
        store.url_of(pairs)
    (pairs / "store.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        store.url_of(pairs)
