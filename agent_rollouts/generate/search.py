"""What `web_search` asks: a function `(query, count) -> list of Page`, or an index of documents on this machine.

An index is a `.jsonl` file of `{"title", "url", "text"}` or a folder of `.md` and `.txt` files. SQLite's full-text
search ranks it (BM25), so that a run can be repeated and asks nobody.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import orjson
import re2

from agent_rollouts.errors import AgentRolloutsError

_WORD = re2.compile(r"[\pL\pN_]+")


class Page(NamedTuple):
    """One result; `text` is an excerpt."""

    title: str
    url: str
    text: str


Search: TypeAlias = Callable[[str, int], Sequence[Page]]


def local_index(place: str) -> Search:
    """A search over documents of this machine.

    Raises:
        AgentRolloutsError: nothing is there, or a line is no document.
    """
    database = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        database.execute("create virtual table pages using fts5(title, url unindexed, text)")
        database.executemany("insert into pages values (?, ?, ?)", _pages(Path(place)))
    except BaseException:
        database.close()
        raise
    lock = threading.Lock()

    def search(query: str, count: int) -> list[Page]:
        words = " OR ".join(f'"{word}"' for word in _WORD.findall(query))
        if not words:
            return []
        excerpt = "snippet(pages, 2, '', '', ' … ', 48)"
        sql = f"select title, url, {excerpt} from pages where pages match ? order by rank limit ?"
        with lock:
            return [Page(*found) for found in database.execute(sql, (words, count))]

    weakref.finalize(search, database.close)
    return search


def _pages(place: Path) -> Iterator[Page]:
    if place.is_dir():
        for path in sorted(path for path in place.rglob("*") if path.suffix in (".md", ".txt")):
            yield Page(path.stem, str(path.relative_to(place)), path.read_text(encoding="utf-8", errors="replace"))
    elif place.is_file():
        for number, line in enumerate(place.read_bytes().split(b"\n"), start=1):
            try:
                record = orjson.loads(line) if line.strip() else None
            except ValueError:
                record = {}
            match record:
                case {"text": str(text), **more}:
                    yield Page(str(more.get("title", "")), str(more.get("url", "")), text)
                case None:
                    pass
                case _:
                    raise AgentRolloutsError(f"{place}:{number} is no document; a line is {{title, url, text}}")
    else:
        raise AgentRolloutsError(f"search index {place} is not there; name a .jsonl file or a folder of texts")
