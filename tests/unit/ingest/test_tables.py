"""Tables of URLs and captions in every form that they are published in."""

from __future__ import annotations

import datetime
import gzip
import json
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipflow.errors import ArtifactError
from clipflow.ingest import tables

A, B = "http://a.example/1.jpg", "https://b.example/2.png?x=1&y=2"
PAIRS = [(A, "a cat"), (B, "a dog, \"asleep\"")]  # fmt: skip


def read(
    path: Path, url: str | None = None, caption: str | None = None, carry: list[str] | None = None
) -> tuple[list[tuple[str, str]], list[dict[str, Any]], list[tuple[str, str]]]:
    """Pairs, what they carry, and what was left out."""
    left_out: list[tuple[str, str]] = []
    found, carried = list[tuple[str, str]](), list[dict[str, Any]]()
    for batch in tables.rows(path, url, caption, carry or [], lambda *out: left_out.append(out)):
        assert len(batch.urls) == len(batch.captions) == len(batch.carried) <= tables.BATCH
        found += zip(batch.urls, batch.captions, strict=True)
        carried += batch.carried
    return found, carried, left_out


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_published_layouts(tmp_path: Path, suffix: str) -> None:
    cc3m = write(
        tmp_path / f"Train_GCC-training.tsv{suffix}", f'a cat\t{A}\na dog, "asleep"\t{B}\n'
    )
    cc12m = write(tmp_path / f"cc12m.tsv{suffix}", f'{A}\ta cat\n{B}\ta dog, "asleep"\n')
    csv = write(
        tmp_path / f"a.csv{suffix}", f'caption,url\r\na cat,{A}\r\n"a dog, ""asleep""",{B}\r\n'
    )
    lines = "".join(json.dumps({"url": url, "text": text}) + "\n" for url, text in PAIRS)
    jsonl = write(tmp_path / f"a.jsonl{suffix}", lines + "\n")
    for path in (cc3m, cc12m, csv, jsonl):
        assert tables.is_table(path)
        assert read(path)[0] == PAIRS, path


def test_laion(tmp_path: Path) -> None:
    columns = {"SAMPLE_ID": [1, 2], "URL": [A, B], "TEXT": ["a cat", 'a dog, "asleep"'],
               "NSFW": ["UNLIKELY", None], "LANGUAGE": ["en", "de"],
               "similarity": [0.31, float("nan")], "at": [datetime.date(2022, 1, 2), None]}  # fmt: skip
    path = parquet(tmp_path / "part-0.parquet", columns)
    pairs, carried, left_out = read(path, carry=["NSFW", "similarity", "at", "URL"])
    assert pairs == PAIRS
    assert carried == [
        {"NSFW": "UNLIKELY", "similarity": 0.31, "at": "2022-01-02", "URL": A},
        {"NSFW": None, "similarity": None, "at": None, "URL": B},
    ]
    json.dumps(carried, allow_nan=False)
    assert left_out == []


@pytest.mark.parametrize("url", ["url", "URL", "Image_URL", "LINK"])
@pytest.mark.parametrize("caption", ["caption", "TEXT", "Title", "alt", "alt_text"])
def test_columns_are_found_by_their_names(tmp_path: Path, url: str, caption: str) -> None:
    path = write(tmp_path / "a.tsv", f"id\t{url}\t{caption}\n7\t{A}\ta cat\n")
    assert read(path, carry=["id"])[:2] == ([(A, "a cat")], [{"id": "7"}])


def test_columns_by_the_names_that_one_gives(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"url,thumb,caption,blip\nno,{A},first,second\n")
    assert read(path, "thumb", "blip")[0] == [(A, "second")]


def test_quotes_in_a_tsv_are_plain_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", f'"unbalanced\t{A}\na 3" nail\t{B}\n')
    assert read(path)[0] == [(A, '"unbalanced'), (B, 'a 3" nail')]


def test_rows_that_cant_be_used(tmp_path: Path) -> None:
    tsv = write(tmp_path / "a.tsv", f"url\tcaption\n{A}\n{A}\ta\tb\n\n\ta\n{A}\t \n{B}\tgood\n")
    assert read(tsv)[0] == [(B, "good")]
    assert read(tsv)[2] == [
        ("malformed row", "a.tsv:2"),
        ("malformed row", "a.tsv:3"),
        ("no URL", "a.tsv:5"),
        ("empty caption", "a.tsv:6"),
    ]
    good = json.dumps({"url": B, "text": "good"})
    bad = ["{", "[1]", '{"url": 5, "text": "a"}', '{"text": "a"}', '{"url": "u", "text": null}',
           r'{"url": "u", "text": "\ud83d"}', "[" * 100_000]  # fmt: skip
    jsonl = write(tmp_path / "a.jsonl", "\n".join([good, *bad, good]) + "\n")
    assert read(jsonl)[0] == [(B, "good")] * 2
    kinds = ["malformed row"] * 3 + ["no URL", "empty caption"] + ["malformed row"] * 2
    assert read(jsonl)[2] == [(kind, f"a.jsonl:{n}") for n, kind in enumerate(kinds, start=2)]
    columns = {"url": [B, B, None, B], "text": pa.Array.from_buffers(
        pa.string(), 4, pa.array([b"good", b"\xff\xfe", b"also", None]).buffers())}  # fmt: skip
    path = parquet(tmp_path / "a.parquet", columns)
    assert read(path)[0] == [(B, "good")]
    assert read(path)[2] == [
        ("malformed row", "a.parquet:2"),
        ("no URL", "a.parquet:3"),
        ("empty caption", "a.parquet:4"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "url", "message"),
    [
        ("a.tsv", f"url\ttext\n{A}\ta\n", "urls", "expected a column 'urls', .*did you mean 'url'"),
        ("a.tsv", f"url\tlink\ttext\n{A}\t{A}\ta\n", None, "got 'url' and 'link'; set .*url_column"),
        ("a.tsv", f"url\ttext\tcaption\n{A}\ta\ta\n", None, "'text' and 'caption'; .*caption_column"),
        ("a.tsv", f"address\ttext\n{B[8:]}\ta\n", None, "got the columns address, text; set"),
        ("a.tsv", f"{A}\t{B}\n", None, "2 columns, of which 2 hold URLs; add a header line"),
        ("a.tsv", f"{A}\ta\tb\n", None, "got 3 columns, of which 1 hold URLs"),
        ("a.tsv", "url\ttext\n/local/1.jpg\ta\n", None, "expected http.* got '/local/1.jpg'; set"),
        ("a.tsv", "", None, "expected rows, got an empty file"),
        ("a.jsonl", "not json\n", None, "expected a JSON object in each line"),
        ("a.parquet", "PAR1 no more", None, "expected a parquet file, got a damaged one"),
        ("a.tsv.gz", None, None, "expected gzip, got a damaged file"),
        ("a.txt", f"{A}\ta\n", None, "expected a table .*got another suffix"),
    ],
)  # fmt: skip
def test_tables_that_cant_be_read(
    tmp_path: Path, name: str, text: str | None, url: str | None, message: str
) -> None:
    path = tmp_path / name
    whole = gzip.compress(f"{A}\ta\n".encode() * 99)
    path.write_bytes(whole[:-12] if text is None else text.encode())
    with pytest.raises(ArtifactError, match=message) as error:
        read(path, url)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_column_to_carry_that_isnt_there(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"URL": [A], "TEXT": ["a"], "NSFW": ["x"]})
    with pytest.raises(ArtifactError, match=r"column 'nsfw'.*NSFW, TEXT, URL.*urls\.carry"):
        read(path, carry=["nsfw"])


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(f"a cat\t{A}\n".encode() + f"Füße\t{B}\n".encode("latin1"))
    with pytest.raises(ArtifactError, match="expected UTF-8, got the byte 0xfc in line 2"):
        read(path)
    path.write_bytes(b"\xef\xbb\xbf" + f"url\ttext\n{A}\tFüße\n".encode())
    assert read(path)[0] == [(A, "Füße")]


def test_damage_in_the_midst_of_a_parquet_file(tmp_path: Path) -> None:
    texts = [f"caption number {n}" for n in range(100_000)]
    path = parquet(
        tmp_path / "a.parquet", {"url": [A] * 100_000, "text": texts}, row_group_size=10_000
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged one"):
        read(path)


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_order_and_flat_memory(tmp_path: Path, kind: str) -> None:
    num = 400_000
    if kind == "tsv":
        with (path := tmp_path / "a.tsv").open("w") as file:
            file.writelines(f"{A}?{n}\tcaption number {n} {'of many ' * 15}\n" for n in range(num))
    else:
        texts = [f"caption number {n} {'of many ' * 15}" for n in range(num)]
        path = parquet(tmp_path / "a.parquet", {"url": [f"{A}?{n}" for n in range(num)], "text": texts},
                       row_group_size=50_000)  # fmt: skip
        del texts
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = 0
    for batch in tables.rows(path, None, None, [], lambda *_: None):
        assert batch.urls[0] == f"{A}?{seen}"
        seen += len(batch.urls)
    assert seen == num
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 40 * 1024


def test_tables_by_their_names(tmp_path: Path) -> None:
    for name in ("a.tsv", "A.CSV", "a.jsonl.gz", "part-0.parquet"):
        assert tables.is_table(Path(name))
    for name in ("a.txt", "a.json", "a.tar", "tsv", "a.parquet.gz", "a.tsv.partial"):
        assert not tables.is_table(Path(name))
