"""What generators wrote before: asked for again, it costs nothing.

One SQLite file serves all runs on a machine: `rewrites.sqlite` in `$CLIPFLOW_CACHE`, by default
`artifacts/cache`. An answer is found by the hash of everything that determines it: the generator with its
model, decoding and prompt version, the run's seed, and the caption or image. What is stored survives
kill -9 at once, so that a run that goes on has lost the requests in flight and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipflow.checkout import home
from clipflow.errors import GeneratorError
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task, Usage

FILE = "rewrites.sqlite"
BUSY_S = 60
"""How long to wait for another process that is writing."""
LOOK_UP_AT_ONCE = 500
TABLES = """
CREATE TABLE IF NOT EXISTS answers
  (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, proposals TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS usage
  (identity TEXT PRIMARY KEY, num INTEGER NOT NULL, read INTEGER NOT NULL, written INTEGER NOT NULL);
"""


class Cache:
    """The answers of one generator. Several processes may use one file on a local disk."""

    def __init__(self, generator: Generator) -> None:
        """Raises GeneratorError if the file can't be used."""
        self.is_used = not generator.is_cheap
        self._of_identity = hashlib.sha256(generator.identity().encode() + b"\0")
        self._name = self._of_identity.hexdigest()[:16]
        folder = Path(os.environ.get("CLIPFLOW_CACHE") or home() / "artifacts/cache")
        self.file = folder / FILE
        if not self.is_used:
            return
        with self._mending():
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA cache_size = -65536")  # KiB
            self._database.execute(
                "PRAGMA wal_autocheckpoint = 10000"
            )  # pages: fewer, larger writes
            self._database.executescript(TABLES)

    def key(self, task: Task) -> bytes:
        """16 bytes that identify what is asked of whom."""
        subject = task.caption.encode(errors="surrogatepass")
        if task.image is not None:
            subject += b"\0" + hashlib.sha256(task.image).digest()
        hashed = self._of_identity.copy()
        hashed.update(b"%d %d %d\0" % (task.seed, task.first, task.num) + subject)
        return hashed.digest()[:16]

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, list[Proposal]]:
        """What was written for those of the keys that were answered before."""
        found: dict[bytes, list[Proposal]] = {}
        if not self.is_used:
            return found
        with self._mending():
            for first in range(0, len(keys), LOOK_UP_AT_ONCE):
                some = keys[first : first + LOOK_UP_AT_ONCE]
                places = ",".join("?" * len(some))
                rows = self._database.execute(
                    f"SELECT key, proposals FROM answers WHERE key IN ({places})", some
                )
                for key, text in rows:
                    found[key] = [Proposal(*proposal) for proposal in json.loads(text)]
        return found

    def store(self, answers: Sequence[tuple[bytes, Answer]]) -> None:
        """Remember final answers, and what all of them took, before anything else is done with them."""
        if not self.is_used:
            return
        rows = [(key, json.dumps(answer.proposals)) for key, answer in answers if answer.is_final]
        usage = sum((answer.usage for _, answer in answers), Usage())
        with self._mending():
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT INTO answers (key, proposals) VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET proposals = excluded.proposals",
                rows,
            )
            self._database.execute(
                "INSERT INTO usage VALUES (?, ?, ?, ?) ON CONFLICT (identity) DO UPDATE SET"
                " num = num + excluded.num, read = read + excluded.read,"
                " written = written + excluded.written",
                (self._name, len(answers), *usage),
            )
            self._database.execute("COMMIT")

    def usage(self) -> tuple[int, Usage]:
        """How many answers this generator gave in all runs so far, and what they took."""
        if not self.is_used:
            return 0, Usage()
        with self._mending():
            row = self._database.execute(
                "SELECT num, read, written FROM usage WHERE identity = ?", (self._name,)
            ).fetchone()
        return (row[0], Usage(*row[1:])) if row else (0, Usage())

    def close(self) -> None:
        """Let go of the file."""
        if self.is_used:
            self._database.close()

    @contextmanager
    def _mending(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise GeneratorError(
                f"{self.file}: can't be used as the cache of rewrites ({error}); set CLIPFLOW_CACHE to"
                " another folder on a local disk, or delete the file if it is damaged"
            ) from None
