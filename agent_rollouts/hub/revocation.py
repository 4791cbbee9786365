"""Taking rows of revoked traces and families out of the files of a dataset.

removal = find_rows(configs, names, open_file, revoked(tombstones))     # which rows of which files
files = removal.cut(path_of, folder)                           # those files without them
text = card.shrunk(text, removal.shrinkage)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from agent_rollouts import card
from agent_rollouts.distill.state import digest

Belongs: TypeAlias = "Callable[[pq.ParquetFile], set[int]]"

_NAMES = ("trace_id", "session_id", "family_id")
"""What the columns end with that say to what a row belongs."""


@dataclass
class Removal:
    """Rows that must go.

    Attributes:
        rows: by file their numbers from 0; of JSON Lines, lines.
        left: by file the number of those that stay.
        parts: by Parquet file its config and split.
        shrinkage: by config and split the rows, bytes in memory and bytes on disk less; bytes known when `cut`.
        families: the rows that stay by family.
        touched: families of which rows go.
        traces: trace and family of these rows.
    """

    rows: dict[str, set[int]] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    shrinkage: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    families: Counter[str | None] = field(default_factory=Counter)
    touched: set[str | None] = field(default_factory=set)
    traces: set[tuple[str | None, str | None]] = field(default_factory=set)

    @property
    def related(self) -> int:
        """Rows that stay, of families of which rows go."""
        return sum(self.families[name] for name in self.touched if name is not None)

    def _relate(self, file: pq.ParquetFile, gone: set[int]) -> None:
        if "family_id" in file.schema_arrow.names:
            names = file.read(["family_id"]).column(0).to_pylist()
            if gone and "trace_id" in file.schema_arrow.names:
                traces = file.read(["trace_id"]).column(0).to_pylist()
                self.traces.update((traces[number], names[number]) for number in gone)
            self.touched.update(names[number] for number in gone)
            self.families.update(name for number, name in enumerate(names) if number not in gone)

    @property
    def count(self) -> int:
        """Rows in all Parquet files."""
        return sum(len(self.rows[name]) for name in self.parts)

    @property
    def by_config(self) -> Counter[str]:
        """Rows by config, the most first: each config of a dataset holds the same rollouts."""
        found: Counter[str] = Counter()
        for name, (config, _) in self.parts.items():
            found[config] += len(self.rows[name])
        return Counter(dict(found.most_common()))

    def cut(self, path_of: Callable[[str], Path], folder: Path) -> dict[str, Path | None]:
        """The files without their rows, written to `folder`; None for those that are left empty."""
        found: dict[str, Path | None] = {}
        for number, (name, gone) in enumerate(self.rows.items()):
            path, target = path_of(name), folder / f"{number}-{Path(name).name}"
            saved = Counter(rows=len(gone) if name in self.parts else 0, disk=path.stat().st_size)
            found[name] = target if self.left[name] else None
            if name in self.parts:
                saved["memory"] = without(path, gone, target)
                saved["disk"] -= target.stat().st_size if self.left[name] else 0
                self.shrinkage[self.parts[name]] += saved
            elif self.left[name]:
                lines_without(path, gone, target)
        return found


def find_rows(
    configs: card.Patterns, names: Iterable[str], open_file: Callable[[str], pq.ParquetFile], belongs: Belongs | None
) -> Removal:
    """The rows of a dataset that are of a revoked trace or family, or belong to what must go else.

    Args:
        configs: the patterns of its files by config and split.
        names: the files that there are.
        open_file: opens one of Parquet; only the columns with names are read.
        belongs: the rows of a file that must go; None where there are none.
    """
    removal = Removal()
    if belongs is None:
        return removal
    every = sorted(names)
    for config, splits in configs.items():
        for split, patterns in splits.items():
            lines, total = set(), 0
            for name in every:
                if not name.endswith(".parquet") or not card.matches(name, patterns):
                    continue
                with open_file(name) as file:
                    gone, count = belongs(file), file.metadata.num_rows
                    removal._relate(file, gone)
                lines |= {total + number for number in gone}
                total += count
                if gone:
                    removal.rows[name], removal.left[name] = gone, count - len(gone)
                    removal.parts[name] = config, split
                    removal.shrinkage.setdefault((config, split), Counter())
            beside = card.lines_of(config, split)
            if lines and beside in every:
                removal.rows[beside], removal.left[beside] = lines, total - len(lines)
    return removal


def revoked(tombstones: frozenset[str]) -> Belongs | None:
    """What tells the rows of revoked traces and families."""
    return partial(belonging, tombstones=tombstones) if tombstones else None


def belonging(file: pq.ParquetFile, tombstones: frozenset[str]) -> set[int]:
    """The rows of a file that are of a revoked trace or family, or of a session below it.

    A trace is meant with all its windows and branches (`name#k`).
    """
    columns = [name for name in file.schema_arrow.names if name.endswith(_NAMES)]
    found: set[int] = set()
    for column in file.read(columns).columns if columns else []:
        gone = {name for name in column.unique().to_pylist() if name and not tombstones.isdisjoint(_digests(name))}
        if gone:
            found.update(number for number, name in enumerate(column.to_pylist()) if name in gone)
    return found


def belongs_to(names: Iterable[str]) -> set[str]:
    """The tombstones by which what has these names goes."""
    return {digest for name in names for digest in _digests(name)}


def _digests(name: str) -> Iterator[str]:
    yield digest(name)
    base, mark, number = name.rpartition("#")
    if mark and number.isdecimal():
        yield digest(base)


def without(path: Path, gone: set[int], target: Path) -> int:
    """Write a Parquet file without some rows, as it is otherwise; returns by how much it shrinks in memory."""
    first = 0
    with (
        pq.ParquetFile(path) as file,
        pq.ParquetWriter(
            target, file.schema_arrow, compression="zstd", use_content_defined_chunking=True, write_page_index=True
        ) as writer,
    ):
        before = _in_memory(file.metadata)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            keep = [first + number not in gone for number in range(len(table))]
            first += len(table)
            if any(keep):
                writer.write_table(table.filter(pa.array(keep)), row_group_size=len(table))
    return before - _in_memory(pq.read_metadata(target))


def _in_memory(metadata: pq.FileMetaData) -> int:
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def lines_without(path: Path, gone: set[int], target: Path) -> None:
    """Write JSON Lines without the lines of these numbers."""
    with path.open("rb") as source, target.open("wb") as out:
        out.writelines(line for number, line in enumerate(source) if number not in gone)
