"""What redaction would replace, or has left: kinds and places, with masked values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow.parquet as pq

from agent_rollouts.distill.redact.escapes import decoded, encoded
from agent_rollouts.distill.redact.rows import Key, Row, parts_of, texts_of
from agent_rollouts.distill.redact.rules import denied
from agent_rollouts.distill.redact.scan import Scope, look


class Place(NamedTuple):
    """Where a secret stands in a dataset, with a value that shows its two first and last letters at most.

    `row` counts from 0 in `file`; `message` is the place in `messages`, None for another column; `trace_id` is the
    row's, where it has one.
    """

    file: str
    row: int
    column: str
    kind: str
    masked: str
    message: int | None = None
    trace_id: str | None = None


def audit_rows(
    rows: Iterable[Row], *, pii: bool = True, hosts: bool = False, deny: Sequence[str] = (), file: str = ""
) -> Iterator[Place]:
    """What redaction would still replace in rows: nothing, where it has been done with the same options."""
    scope = Scope(pii, hosts, denied(tuple(deny)))
    for number, row in enumerate(rows):
        keys: dict[Key, list[tuple[str, int | None]]] = {}
        message = -1
        for column, value in parts_of(row):
            message += column == "messages"
            for key in texts_of(column, value):
                keys.setdefault(key, []).append((column, message if column == "messages" else None))
        texts = [(encoded(text), context) for text, context in keys]
        places = list(keys.values())
        trace = row.get("trace_id")
        for index, spans in look(texts, scope).items():
            for span in spans:
                shown = masked(decoded(texts[index][0][span.start : span.end]))
                for column, at in dict.fromkeys(places[index]):
                    yield Place(file, number, column, span.kind, shown, at, trace if isinstance(trace, str) else None)


def audit_files(paths: Iterable[str | os.PathLike[str]], **options: Any) -> Iterator[Place]:
    """`audit_rows` over Parquet files, a row group at a time, and JSON Lines files."""
    for path in paths:
        for number, row in enumerate(_rows_of(path)):
            for place in audit_rows([row], **options, file=str(path)):
                yield place._replace(row=number)


def _rows_of(path: str | os.PathLike[str]) -> Iterator[Row]:
    if str(path).endswith(".jsonl"):
        with open(path, "rb") as lines:
            yield from map(orjson.loads, lines)
        return
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            columns = [column.to_pylist() for column in table.columns]
            for values in zip(*columns, strict=True):
                yield dict(zip(table.column_names, values, strict=True))


def report(rows: Iterable[Row], **options: Any) -> Iterator[Place]:
    """What redaction would replace in rows that are not redacted yet: `for place in report(rows, deny=[…])`.

    Args:
        rows: as `load_rollouts` yields them; `file` of a place is the row's `source_path`.
        options: `pii`, `hosts`, `deny`, as of `Redactor`.
    """
    for number, row in enumerate(rows):
        for place in audit_rows([row], **options, file=str(row.get("source_path") or "")):
            yield place._replace(row=number)


def masked(value: str) -> str:
    """Of a long value the first and last two letters, of a short one none."""
    value = value.replace("\n", " ")
    return f"{value[:2]}…{value[-2:]} ({len(value)})" if len(value) >= 16 else f"… ({len(value)})"
