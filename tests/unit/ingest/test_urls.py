"""Tables of URLs, downloaded from a server that is as bad as the web."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipflow.artifacts import benchmarks
from clipflow.artifacts.pairs import Pairs, key_of
from clipflow.errors import ArtifactError
from clipflow.ingest import stage
from fakes.web import Web, serving
from unit.ingest.conftest import photo


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving(Web(pictures=[photo(n) for n in range(64)])) as web:
        yield web


@pytest.fixture
def ingest(tmp_path: Path, values: dict[str, Any], stage_params: Any) -> Any:
    """`ingest(data, retry_failed=False, web={...}, **changes of urls)`."""
    values["ingest"]["samples_per_shard"] = 5
    values["ingest"]["duplicates"]["benchmark_bits"] = None
    urls = values["sources"]["urls"]
    urls["web"] |= {
        "allow_loopback": True,
        "timeout_s": 1.0,
        "max_retries": 0,
        "max_bytes": 300_000,
    }

    def run(
        data: Path, *, out: str = "out", retry_failed: bool = False, **changes: Any
    ) -> tuple[Pairs, list[benchmarks.Task]]:
        urls["web"] |= changes.pop("web", {})
        urls.update(changes)
        outs = {name: tmp_path / out / name for name in ("pairs", "benchmarks")}
        params = stage_params("ingest", source="urls", data=str(data))
        stage.run(params, **outs, retry_failed=retry_failed)
        return Pairs(outs["pairs"]), benchmarks.read(outs["benchmarks"])

    return run


def left_out(pairs: Pairs) -> dict[str, int]:
    return {reason: listed["count"] for reason, listed in pairs.manifest["left_out"].items()}


def test_the_tables_that_people_have(tmp_path: Path, web: Web, ingest: Any) -> None:
    data = tmp_path / "d"
    data.mkdir()
    url = web.url("/img/{}.jpg").format
    (data / "1-cc3m.tsv").write_text("".join(f'the "{n}" of cc3m\t{url(n)}\n' for n in range(7)))
    (data / "2-cc12m.tsv").write_text("".join(f"{url(n)}\tcc12m {n}\n" for n in range(10, 13)))
    (data / "4.jsonl").write_text(json.dumps({"url": url(30), "caption": "a line"}) + "\n")
    pairs, _ = ingest(data)
    assert pairs.captions == [
        *(f'the "{n}" of cc3m' for n in range(7)), "cc12m 10", "cc12m 11", "cc12m 12", "a line",
    ]  # fmt: skip
    assert pairs.keys[-1] == key_of(f"{url(30)}\na line")
    # 7 rows of the first table are two shards of five; no shard has rows of two tables.
    assert [shard["num_pairs"] for shard in pairs.manifest["shards"]] == [5, 2, 3, 1]


def test_columns_go_along(tmp_path: Path, web: Web, ingest: Any) -> None:
    table = pa.table({
        "URL": [web.url(f"/img/{n}.jpg") for n in (20, 21)], "TEXT": ["laion 20", "laion 21"],
        "NSFW": ["UNLIKELY", None], "similarity": [0.31, 0.4],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "laion.parquet")
    pairs, _ = ingest(tmp_path / "laion.parquet", carry=["NSFW", "similarity"])
    assert pairs.captions == ["laion 20", "laion 21"]
    with tarfile.open(pairs.shards[0]) as tar:
        facts = [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert facts[0] == {"NSFW": "UNLIKELY", "similarity": 0.31, "url": web.url("/img/20.jpg")}
    assert facts[1] == {"similarity": 0.4, "url": web.url("/img/21.jpg")}
    with pytest.raises(ArtifactError, match="expected a column 'LANGUAGE'"):
        ingest(tmp_path / "laion.parquet", carry=["LANGUAGE"])


def test_thresholds_on_what_goes_along(
    tmp_path: Path, web: Web, ingest: Any, values: dict[str, Any]
) -> None:
    table = pa.table({
        "url": [web.url(f"/img/{n}.jpg") for n in range(5)], "caption": [f"n {n}" for n in range(5)],
        "similarity": [0.31, 0.29, None, float("nan"), 0.3], "punsafe": [0.1, 0.1, 0.1, 0.1, 0.9],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    values["ingest"] |= {"at_least": {"similarity": 0.3}, "at_most": {"punsafe": 0.5}}
    pairs, _ = ingest(tmp_path / "t.parquet", carry=["similarity", "punsafe"])
    assert pairs.captions == ["n 0"]
    assert left_out(pairs) == {
        "similarity below 0.3": 1,
        "no similarity": 2,
        "punsafe above 0.5": 1,
    }


def test_a_table_that_is_added_appends_shards(tmp_path: Path, web: Web, ingest: Any) -> None:
    data = tmp_path / "d"
    data.mkdir()
    url = web.url("/img/{}.jpg").format
    (data / "a.tsv").write_text("".join(f"{url(n)}\tnumber {n}\n" for n in range(8)))
    before = {shard["url"]: shard["sha256"] for shard in ingest(data)[0].manifest["shards"]}
    (data / "b.tsv").write_text(f"{url(9)}\tmore\n{url(1)}\tnumber 1\n")
    pairs, _ = ingest(data)
    after = {shard["url"]: shard["sha256"] for shard in pairs.manifest["shards"]}
    assert before.items() < after.items()
    assert len(after) == len(before) + 1
    assert left_out(pairs) == {"duplicate key": 1}


def test_what_does_not_come_is_counted_by_reason(tmp_path: Path, web: Web, ingest: Any) -> None:
    paths = ["/image/9000", "/status/404", "/status/503", "/html", "/empty", "/endless", "/drip",
             "/loop", "/robots?noai", "/to?http://169.254.169.254/latest/meta-data", "/bomb"]  # fmt: skip
    table = tmp_path / "t.tsv"
    rows = [f"{web.url(path)}\tcaption of {path}" for path in paths]
    rows += ["http://10.0.0.1/a.jpg\tprivate", "file:///etc/passwd\ta file", "nothing\tno url"]
    table.write_text("\n".join(rows) + "\n")
    pairs, _ = ingest(table)
    assert pairs.captions == ["caption of /image/9000"]
    assert left_out(pairs) == {
        "HTTP 404": 1, "HTTP 503": 1, "unreadable image": 1, "empty body": 1, "too many bytes": 1,
        "timed out": 1, "too many redirects": 1, "opted out": 1, "private address": 2,
        "encoded body": 1, "not http(s)": 2,
    }  # fmt: skip
    report = (pairs.folder / "report.html").read_text()
    assert "Worst hosts" in report
    assert "--retry-failed" in report


def test_failed_urls_are_retried_alone(tmp_path: Path, web: Web, ingest: Any) -> None:
    table = tmp_path / "t.tsv"
    flaky = [web.url(f"/flaky/503/1/{tmp_path.name}-{n}") for n in range(3)]
    dead, good = web.url("/status/404"), [web.url(f"/img/{n}.jpg") for n in range(9)]
    urls = [*good[:4], *flaky, dead, *good[4:]]
    table.write_text("".join(f"{url}\tnumber {n}\n" for n, url in enumerate(urls)))
    before, _ = ingest(table)
    assert left_out(before) == {"HTTP 404": 1, "HTTP 503": 3}
    had = {shard["url"]: shard["sha256"] for shard in before.manifest["shards"]}
    keys = before.keys
    asked = len(web.requests)
    # How it is downloaded may change; what was downloaded stays.
    after, _ = ingest(table, retry_failed=True, web={"concurrency": 2, "timeout_s": 2.0})
    assert len(web.requests) - asked == 3
    assert [key for key in after.keys if key in set(keys)] == keys
    assert after.captions == [f"number {n}" for n in range(13) if n != 7]
    now = {shard["url"]: shard["sha256"] for shard in after.manifest["shards"]}
    assert now["00002.tar"] == had["00002.tar"]
    # Nothing is left to retry, so it is as if all had come at once.
    with pytest.raises(ArtifactError, match="found nothing; run without --retry-failed"):
        ingest(table, retry_failed=True)
    again, _ = ingest(table, out="again")
    assert again.manifest == after.manifest


def test_a_held_out_share_becomes_retrieval(tmp_path: Path, web: Web, ingest: Any) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("".join(f"{web.url(f'/img/{n}.jpg')}\tn {n}\n" for n in range(40)))
    pairs, (task,) = ingest(table, test_share=0.25)
    assert 2 < task.num_samples["test"] < 22
    assert len(pairs) + task.num_samples["test"] == 40


def test_no_tables(tmp_path: Path, ingest: Any) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(ArtifactError, match=r"expected tables .* found none; check ingest.data"):
        ingest(tmp_path / "d")
    with pytest.raises(ArtifactError, match="expected a table of URLs and captions"):
        ingest(tmp_path / "gone.tsv")
