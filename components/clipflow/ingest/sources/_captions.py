"""Reading a captions file: a CSV or TSV whose rows name images and say what they show."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from clipflow.errors import ArtifactError, did_you_mean
from clipflow.ingest.sources._files import lines


def read(
    path: Path, image_column: str, caption_column: str, leave_out: Callable[[str, str], None]
) -> dict[str, list[str]]:
    """Every image that the file names, with its captions in the order of the rows.

    `leave_out(reason, name)` hears of rows that don't parse or have more or fewer fields than the
    header, and of empty captions. Raises ArtifactError for a missing column and for other encodings.
    """
    rows = _rows(path)
    header = next(rows, (0, None))[1] or []
    for column in (image_column, caption_column):
        if column not in header:
            hint = did_you_mean(column, header or ["no header line"])
            raise ArtifactError(f"{path}: expected a column '{column}'; {hint}")
    image, caption = header.index(image_column), header.index(caption_column)
    captions: dict[str, list[str]] = {}
    for line, row in rows:
        if row is None or len(row) != len(header) or not row[image]:
            leave_out("malformed row", f"line {line}")
            continue
        of_image = captions.setdefault(row[image], [])
        if text := row[caption].strip():
            of_image.append(text)
        else:
            leave_out("empty caption", row[image])
    return captions


def _rows(path: Path) -> Iterator[tuple[int, list[str] | None]]:
    """`(line number, fields)` of each row that isn't blank; None for a row that can't be parsed.

    In a TSV a quote is a character like any other: captions from the web hold unbalanced ones.
    """
    if path.suffix.lower() == ".tsv":
        rows = csv.reader(lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines(path))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield rows.line_num, None
        else:
            if row:
                yield rows.line_num, row
