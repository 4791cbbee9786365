"""Rows on their way between the phases of a run: Arrow IPC files in the hidden folder beside the output.

They are memory-mapped when they are read, so that rows can be taken in any order and memory does not grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from datasets import Features, Json

from agent_rollouts.jsontext import exact_text, loads_exactly

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1000
_Places: TypeAlias = npt.NDArray[np.int64]

ROWS = pa.schema({"row": pa.large_string()})
"""The schema of whole rows, each one JSON text."""


class Spool:
    """Writes records of a schema to a file, some megabytes at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self._held: list[Mapping[str, Any]] = []
        self._size = 0
        self._writer = pa.ipc.new_file(pa.OSFile(str(path), "wb"), schema)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, record: Mapping[str, Any], size: int) -> None:
        """Take a record of about so many bytes; its JSON columns are text."""
        self._held.append(record)
        self._size += size
        if self._size >= _BATCH_BYTES or len(self._held) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(table(self._held, self.schema))
        self._held, self._size = [], 0


def table(records: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Records as a table; columns of JSON (lists of it, too) are given as text."""
    arrays = []
    for field in schema:
        values = [record.get(field.name) for record in records]
        arrays.append(pa.array(values, _plain(field.type)).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _plain(type: pa.DataType) -> pa.DataType:
    """The type without extension types, which Python objects cannot be made into."""
    if isinstance(type, pa.BaseExtensionType):
        return type.storage_type
    if pa.types.is_list(type):
        return pa.list_(_plain(type.value_type))
    return type


def batches(paths: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    """The batches of spool files, memory-mapped."""
    for path in paths:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


class Gathered:
    """All records of spool files, to be taken in any order."""

    def __init__(self, paths: Iterable[Path], schema: pa.Schema) -> None:
        self.schema = schema
        self.batches = list(batches(paths))
        self._ends = np.cumsum([len(batch) for batch in self.batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all records, in the order in which they were written."""
        table = pa.Table.from_batches(self.batches, self.schema)
        return table.select(names)

    def tables(
        self,
        order: npt.NDArray[np.int64],
        columns: Sequence[str],
        sizes: npt.NDArray[np.int64],
        *,
        bytes: int,
        rows: int,
    ) -> Iterator[pa.Table]:
        """Records in an order, as tables of at most so many bytes (by `sizes`) and rows each, however they lie."""
        begin = 0
        while begin < len(order):
            end, total = begin, 0
            while end < len(order) and end - begin < rows and (end == begin or total + sizes[order[end]] <= bytes):
                total += int(sizes[order[end]])
                end += 1
            yield self.take(order[begin:end]).select(columns)
            begin = end

    def take(self, places: _Places | Sequence[int]) -> pa.Table:
        """The records at these places; neighbours are taken together."""
        slices = []
        at = 0
        while at < len(places):
            batch = int(np.searchsorted(self._ends, places[at], side="right"))
            first = int(places[at]) - (int(self._ends[batch - 1]) if batch else 0)
            length = 1
            while (
                at + length < len(places)
                and places[at + length] == places[at] + length
                and first + length < len(self.batches[batch])
            ):
                length += 1
            slices.append(self.batches[batch].slice(first, length))
            at += length
        return pa.Table.from_batches(slices, self.schema).combine_chunks()


def stored(row: Mapping[str, Any], features: Features) -> dict[str, Any]:
    """The columns of some features, JSON as text."""
    found: dict[str, Any] = {}
    for name, feature in features.items():
        value = row.get(name)
        found[name] = to_json(value) if isinstance(feature, Json) and value is not None else value
    return found


def to_json(row: Any) -> str:
    """A value as JSON text, which begins with a space where orjson cannot write or read it (long integers)."""
    try:
        return orjson.dumps(row).decode()
    except TypeError:
        return f" {exact_text(row)}"


def from_json(text: str) -> dict[str, Any]:
    """The row of such a text."""
    row: dict[str, Any] = loads_exactly(text) if text.startswith(" ") else orjson.loads(text)
    return row
