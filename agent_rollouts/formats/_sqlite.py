"""SQLite databases that agents keep their sessions in, read without touching them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from agent_rollouts.source import Source

MAGIC = b"SQLite format 3\x00"
END = b"\n-- end of the schema"


@contextmanager
def database(source: Source) -> Iterator[sqlite3.Connection]:
    """A connection to read from, rows as `sqlite3.Row`; text that is not UTF-8 is mended.

    What a running agent has written but not yet merged (the `-wal` file beside) is included. A database
    with such a file, a remote one or one within an archive is copied first: SQLite would write beside it.

    Raises:
        sqlite3.DatabaseError: damaged, or no database.
    """
    log = source.beside(f"{source.name}-wal")
    if os.path.isfile(source.path) and source.is_plain() and (log is None or not os.path.getsize(log.path)):
        with closing(_connect(source.path, "mode=ro&immutable=1")) as connection:
            yield connection
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy.db")
        for original, place in ((source, copy), (log, f"{copy}-wal")):
            if original is not None:
                with original.open() as stream, open(place, "wb") as file:
                    shutil.copyfileobj(stream, file)
        with closing(_connect(copy, "mode=rw")) as connection:
            yield connection


def schema(source: Source) -> bytes:
    """The SQL that made the tables, empty for a file that is damaged."""
    try:
        with database(source) as connection:
            rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            return "\n".join(str(row["sql"]) for row in rows).encode()
    except sqlite3.Error:
        return b""


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """The columns that a table has in this version of its program; none where there is no such table."""
    return {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}


def _connect(path: str, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(os.path.abspath(path))}?{how}", uri=True)
    connection.row_factory = sqlite3.Row
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection
