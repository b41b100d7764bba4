"""LaCLIP's files: a CSV of image paths and captions, and texts of which line N belongs to row N."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clipflow.errors import ArtifactError, ParamsError, did_you_mean
from clipflow.rewrite.exchange import SUFFIXES

T = TypeVar("T")
PROBED = (*SUFFIXES, ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""A first row that names no such file is a header."""


@dataclass(frozen=True)
class Files:
    """A CSV with the text files that belong to it, read row by row as often as needed."""

    csv_file: Path
    texts: dict[str, Path]
    """One file for each source of rewrites."""
    image_column: str | None = None
    caption_column: str | None = None
    """By name, where there is a header; else the first column is the image and the second the caption."""

    def captions(self) -> Iterator[tuple[str, str]]:
        """`(image path, caption)` of each row. Raises ArtifactError for a row that has none."""
        rows = self._rows()
        first = next(rows, (1, []))
        header = first[1]
        image, caption = (
            self._column(name, header, default)
            for name, default in ((self.image_column, 0), (self.caption_column, 1))
        )
        is_named = self.image_column is not None or self.caption_column is not None
        if not is_named and header and header[0].lower().endswith(PROBED):
            yield self._cells(first, image, caption)
        for row in rows:
            yield self._cells(row, image, caption)

    def lines(self, source: str) -> Iterator[str]:
        """Each line of a source's file, without its end and the spaces around it."""
        with _utf8(self.texts[source]), self.texts[source].open(encoding="utf-8-sig") as stream:
            for line in stream:
                yield line.strip()

    def rows(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """`(image path, caption, the text of each source)`, as long as all files have a row."""
        texts = zip(*map(self.lines, self.texts), strict=False)
        for (path, caption), of_row in zip(self.captions(), texts, strict=False):
            yield path, caption, of_row

    def _column(self, name: str | None, header: list[str], default: int) -> int:
        if name is None:
            return default
        if name not in header:
            hint = did_you_mean(name, header or ["no header line"])
            raise ArtifactError(f"{self.csv_file}: expected a column '{name}'; {hint}")
        return header.index(name)

    def _cells(self, row: tuple[int, list[str]], image: int, caption: int) -> tuple[str, str]:
        line, cells = row
        if len(cells) <= max(image, caption):
            raise ArtifactError(
                f"{self.csv_file}: expected an image path and a caption in line {line}, got"
                f" {len(cells)} cells; mend that row, and leave the texts' lines as they are"
            )
        return cells[image], cells[caption]

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """`(line number, cells)`; blank lines are no rows."""
        with (
            _utf8(self.csv_file),
            self.csv_file.open(encoding="utf-8-sig", newline="") as stream,
        ):
            rows = csv.reader(stream)
            try:
                for row in rows:
                    if row:
                        yield rows.line_num, row
            except csv.Error as error:
                raise ArtifactError(
                    f"{self.csv_file}: no CSV in line {rows.line_num} ({error}); mend that row"
                ) from None


@contextmanager
def _utf8(path: Path) -> Iterator[None]:
    """Raises ArtifactError if the file can't be read, or not as UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path}: expected UTF-8, got the byte 0x{error.object[error.start]:02x}; convert it, for"
            " example with 'iconv -f LATIN1 -t UTF-8'"
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{path}: can't be read ({error.strerror}); check --csv and --texts"
        ) from None


class Counted(Iterator[T]):
    """Passes items on and counts them."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self.num_items = 0

    def __next__(self) -> T:
        item = next(self._items)
        self.num_items += 1
        return item


def sources_of(texts: Iterable[str]) -> dict[str, Path]:
    """`name=path`, or a path whose name says it after its last underscore: `cc3m_bard.txt` is `bard`.

    Raises ParamsError if two files would have the same name.
    """
    sources: dict[str, Path] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or Path(text).exists():
            name, path = Path(text).stem.rpartition("_")[2], text
        if name in sources:
            raise ParamsError(
                f"--texts: both {sources[name]} and {path} are called '{name}'; name one of them, as in"
                f" --texts other={path}"
            )
        sources[name] = Path(path)
    return sources
