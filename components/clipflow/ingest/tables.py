"""Tables of URLs and captions, as CC3M, CC12M, LAION and others are published.

A table is read in its own order, a batch at a time, whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from clipflow.errors import ArtifactError, did_you_mean
from clipflow.ingest.table_files import SUFFIXES, Table, is_table, is_url, opened

__all__ = ["SUFFIXES", "Batch", "is_table", "rows"]

URL_NAMES = ("url", "image_url", "link")
CAPTION_NAMES = ("caption", "text", "title", "alt", "alt_text")
"""What columns are called, in any case."""
BATCH = 1024


class Batch(NamedTuple):
    """Some rows of a table, as three lists of one length."""

    urls: list[str]
    captions: list[str]
    carried: list[dict[str, Any]]
    """The columns to carry, by name; JSON-able."""


def rows(
    path: Path,
    url_column: str | None,
    caption_column: str | None,
    carry: Sequence[str],
    leave_out: Callable[[str, str], None],
) -> Iterator[Batch]:
    """The rows of a table that have a URL and a caption.

    A column that is None is found by its name or, without a header line, by its content: one column holds
    URLs, the other captions. `leave_out(reason, name)` hears of the other rows: `file:line`, or
    `file:row` of a parquet file. Raises ArtifactError for columns that aren't there or can't be told
    apart, for no URLs in the first rows, for text that isn't UTF-8 and for damaged files.
    """
    table = opened(path)
    columns = [
        _column(path, table.names, "url_column", url_column, URL_NAMES),
        _column(path, table.names, "caption_column", caption_column, CAPTION_NAMES),
        *(_column(path, table.names, "carry", name, ()) for name in carry),
    ]
    found = _pairs(path, table, columns, leave_out)
    first = True
    while some := list(islice(found, BATCH)):
        urls, captions, carried = zip(*some, strict=True)
        if first and not any(map(is_url, urls)):
            raise ArtifactError(
                f"{path}: expected http(s) URLs in the column '{columns[0]}', got '{urls[0][:60]}'; "
                "set sources.urls.url_column"
            )
        first = False
        yield Batch(list(urls), list(captions), list(carried))


def _pairs(
    path: Path, table: Table, columns: list[str], leave_out: Callable[[str, str], None]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for number, values in table.read(columns):
        name = f"{path.name}:{number}"
        if values is None:
            leave_out("malformed row", name)
            continue
        url, caption, *carried = values
        if not isinstance(url, str | None) or not isinstance(caption, str | None):
            leave_out("malformed row", name)
        elif not url or not (url := url.strip()):
            leave_out("no URL", name)
        elif not caption or not (caption := caption.strip()):
            leave_out("empty caption", name)
        else:
            yield url, caption, dict(zip(columns[2:], map(_plain, carried), strict=True))


def _column(
    path: Path, names: list[str], param: str, wanted: str | None, usual: Sequence[str]
) -> str:
    """The name of a column: the one that is wanted, or the only one with a usual name."""
    if wanted is not None:
        if wanted not in names:
            raise ArtifactError(
                f"{path}: expected a column '{wanted}', got none of that name; "
                f"{did_you_mean(wanted, names)} (sources.urls.{param})"
            )
        return wanted
    found = [name for name in names if name.strip().lower() in usual]
    if len(found) != 1:
        got = " and ".join(f"'{name}'" for name in found) or f"the columns {', '.join(names)}"
        raise ArtifactError(
            f"{path}: expected one column called {', '.join(usual[:-1])} or {usual[-1]}, "
            f"got {got[:200]}; set sources.urls.{param}"
        )
    return found[0]


def _plain(value: Any) -> Any:
    """A value that JSON can hold: NaN is nothing, dates and other types are their texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
