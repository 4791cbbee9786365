"""What redaction would replace, or has left: kinds and places, with masked values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from agent_rollouts.distill.redact.escapes import decoded, encoded
from agent_rollouts.distill.redact.redactor import Key, Texts
from agent_rollouts.distill.redact.rows import Row, walk_column
from agent_rollouts.distill.redact.rules import denied


class Place(NamedTuple):
    """Where a secret stands in a dataset, with a value that shows its two first and last letters at most."""

    file: str
    row: int
    column: str
    kind: str
    masked: str


def audit_rows(
    rows: Iterable[Row], *, pii: bool = True, hosts: bool = False, deny: Sequence[str] = (), file: str = ""
) -> Iterator[Place]:
    """What redaction would still replace in rows: nothing, where it has been done with the same options."""
    words = denied(tuple(deny))
    for number, row in enumerate(rows):
        for column, value in row.items():
            noted: dict[Key, None] = {}

            def note(text: str, context: str | None, noted: dict[Key, None] = noted) -> str:
                noted[text, context] = None
                return text

            walk_column(column, value, note)
            for (text, _), spans in Texts(noted).spans(pii, hosts, words).items():
                data = encoded(text)
                for span in spans:
                    yield Place(file, number, column, span.kind, masked(decoded(data[span.start : span.end])))


def audit_files(paths: Iterable[str | os.PathLike[str]], **options: Any) -> Iterator[Place]:
    """`audit_rows` over Parquet files, a row group at a time; rows are numbered in each file from 0."""
    for path in paths:
        first = 0
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                columns = [column.to_pylist() for column in table.columns]
                rows = (dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True))
                for place in audit_rows(rows, **options, file=str(path)):
                    yield place._replace(row=first + place.row)
                first += len(table)


def report(rows: Iterable[Row], **options: Any) -> Iterator[Place]:
    """Kinds and places of what redaction would replace, with masked values; `file` is the row's source_path."""
    for number, row in enumerate(rows):
        for place in audit_rows([row], **options, file=str(row.get("source_path") or "")):
            yield place._replace(row=number)


def masked(value: str) -> str:
    """Of a long value the first and last two letters, of a short one none."""
    value = value.replace("\n", " ")
    return f"{value[:2]}…{value[-2:]} ({len(value)})" if len(value) >= 16 else f"… ({len(value)})"
