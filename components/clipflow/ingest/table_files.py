"""Opening tables: TSV, CSV and JSON lines, compressed or not, and parquet."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipflow.errors import ArtifactError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".tsv.gz", ".csv.gz", ".jsonl.gz", ".parquet")
BATCH = 1024
"""Rows of parquet read at once."""
FIRST_ROWS = 100
"""Rows that tell what a table's columns are."""


@dataclass(frozen=True)
class Table:
    """An opened table."""

    names: list[str]
    read: Callable[[list[str]], Iterator[tuple[int, Sequence[Any] | None]]]
    """Number of line or row, counted from 1, and its values in those columns; None if it is malformed."""


def is_table(path: Path) -> bool:
    """Whether a file is a table, by its name."""
    return path.name.lower().endswith(SUFFIXES)


def is_url(text: str) -> bool:
    """Whether a text begins like a URL of the web."""
    return text.lstrip().lower().startswith(("http://", "https://"))


def opened(path: Path) -> Table:
    """The table in a file. Raises ArtifactError for other suffixes, other encodings and damage."""
    name = path.name.lower().removesuffix(".gz")
    if not is_table(path):
        raise ArtifactError(
            f"{path}: expected a table ({', '.join(SUFFIXES)}), got another suffix; rename the file"
        )
    if name.endswith(".parquet"):
        return _parquet(path)
    return _json_lines(path) if name.endswith(".jsonl") else _delimited(path, name[-4:])


def _delimited(path: Path, suffix: str) -> Table:
    """In a TSV a quote is a character like any other: captions from the web hold unbalanced ones."""
    if suffix == ".tsv":
        records = _records(csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE))
    else:
        records = _records(csv.reader(_lines(path)))
    first = list(islice(records, FIRST_ROWS))
    if not first:
        raise ArtifactError(f"{path}: expected rows, got an empty file; remove it")
    names = first[0][1] or []
    if any(map(is_url, names)):
        names = _names_by_content(path, [fields for _, fields in first if fields])
    else:
        del first[0]

    def read(columns: list[str]) -> Iterator[tuple[int, Sequence[Any] | None]]:
        at = [names.index(name) for name in columns]
        for line, fields in chain(first, records):
            whole = fields is not None and len(fields) == len(names)
            yield line, [fields[i] for i in at] if fields and whole else None

    return Table(names, read)


def _names_by_content(path: Path, first: list[list[str]]) -> list[str]:
    """Names for the two columns of a table without a header line."""
    width = len(first[0])
    counts = [sum(is_url(row[i]) for row in first if len(row) == width) for i in range(width)]
    holding = [i + 1 for i, count in enumerate(counts) if 2 * count > len(first)]
    if width != 2 or len(holding) != 1:
        raise ArtifactError(
            f"{path}: expected a header line, or a column of URLs and one of captions, got {width} "
            f"columns, of which {len(holding)} hold URLs; add a header line"
        )
    return ["url", "caption"] if holding == [1] else ["caption", "url"]


def _records(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | None]]:
    """Line number and fields of each row that isn't blank; None for a row that can't be parsed."""
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield reader.line_num, None  # type: ignore[attr-defined]
        else:
            if fields:
                yield reader.line_num, fields  # type: ignore[attr-defined]


def _json_lines(path: Path) -> Table:
    def parsed(line: str) -> dict[str, Any] | None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or (r"\ud" in line.lower() and not _is_text(record)):
            return None
        return record

    records = ((n, parsed(line)) for n, line in enumerate(_lines(path), start=1) if line.strip())
    first = list(islice(records, FIRST_ROWS))
    names = list(dict.fromkeys(chain.from_iterable(record or () for _, record in first)))
    if not names:
        raise ArtifactError(
            f"{path}: expected a JSON object in each line, got none; check the file"
        )

    def read(columns: list[str]) -> Iterator[tuple[int, Sequence[Any] | None]]:
        for line, record in chain(first, records):
            yield line, None if record is None else [record.get(name) for name in columns]

    return Table(names, read)


def _is_text(record: dict[str, Any]) -> bool:
    """Whether there are no halves of surrogate pairs in it, which JSON can escape and UTF-8 can't hold."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(path: Path) -> Table:
    def damaged(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: expected a parquet file, got a damaged one ({' '.join(str(error).split())[:200]}); "
            "fetch it again"
        )

    def read(columns: list[str]) -> Iterator[tuple[int, Sequence[Any] | None]]:
        number = 0
        try:
            for batch in file.iter_batches(BATCH, columns=columns):
                by_name = {name: _values(batch.column(name)) for name in set(columns)}
                for values in zip(*(by_name[name] for name in columns), strict=True):
                    number += 1
                    yield number, values
        except (pa.ArrowException, OSError) as error:
            raise damaged(error) from None

    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise damaged(error) from None
    return Table(file.schema_arrow.names, read)


def _values(column: Any) -> list[Any]:
    """The values of a column; bytes where a text isn't UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return value and value.decode()
    except UnicodeDecodeError:
        return value


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, compressed or not, with their ends."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ArtifactError(
                        f"{path}: expected UTF-8, got the byte 0x{line[error.start]:02x} in line "
                        f"{number}; convert it, for example with 'iconv -f LATIN1 -t UTF-8'"
                    ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArtifactError(
            f"{path}: expected gzip, got a damaged file ({error}); fetch it again"
        ) from None
