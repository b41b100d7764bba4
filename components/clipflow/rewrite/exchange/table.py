"""Rows found by name, on disk: as many as there may be."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

LOOK_UP_AT_ONCE = 500
TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE rows (name TEXT NOT NULL, caption TEXT NOT NULL, texts TEXT NOT NULL);
CREATE TABLE asked (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""

Row = tuple[str, list[str]]
"""A caption, and its text of each source."""


class Table:
    """Scratch: the file is worth nothing to another process."""

    def __init__(self, file: Path, rows: Iterable[tuple[str, str, Sequence[str]]]) -> None:
        """Take in `(name, caption, texts)`; several rows may have one name."""
        self._file = file
        self._database = sqlite3.connect(file, isolation_level=None)
        self._database.executescript(TABLES)
        plain = ((name, caption, json.dumps(texts)) for name, caption, texts in rows)
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO rows VALUES (?, ?, ?)", plain)
        self._database.execute("COMMIT")
        # Sorted once and on disk; filled row by row in an order like that of hashes, it would crawl.
        self._database.execute("CREATE INDEX by_name ON rows (name)")

    def look_up(self, names: Sequence[str]) -> dict[str, list[Row]]:
        """The rows of each name that there is, in their order."""
        found: dict[str, list[Row]] = {}
        names = list(dict.fromkeys(names))
        self._database.execute("BEGIN")
        for first in range(0, len(names), LOOK_UP_AT_ONCE):
            some = names[first : first + LOOK_UP_AT_ONCE]
            self._database.executemany("INSERT OR IGNORE INTO asked VALUES (?)", zip(some))
            places = ",".join("?" * len(some))
            rows = self._database.execute(
                f"SELECT rowid, name, caption, texts FROM rows WHERE name IN ({places})"
                " ORDER BY rowid",
                some,
            )
            for _, name, caption, texts in rows:
                found.setdefault(name, []).append((caption, json.loads(texts)))
        self._database.execute("COMMIT")
        return found

    def num_unasked(self) -> int:
        """Rows that no look-up has asked for."""
        question = "SELECT COUNT(*) FROM rows WHERE name NOT IN (SELECT name FROM asked)"
        return int(self._database.execute(question).fetchone()[0])

    def close(self) -> None:
        """Throw the file away."""
        self._database.close()
        self._file.unlink()
