"""Where the rows of a run come from, in parts that another process may take: files, or rows given from Python."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from agent_rollouts.configs import file_rules
from agent_rollouts.copies import reader
from agent_rollouts.distill.funnel import Funnel, Size, size
from agent_rollouts.distill.options import Options
from agent_rollouts.features import row as as_row
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import each, reason

Row: TypeAlias = dict[str, Any]

_PART_BYTES = 16 << 20
_PART_FILES = 500


class Input(Protocol):
    """Where rows come from, in parts. It is handed to other processes."""

    @property
    def parts(self) -> int:
        """How many parts there are."""

    def weight(self, part: int) -> int:
        """How much of the progress bar a part is."""

    def noted(self, part: int) -> Iterable[Mapping[str, Any]]:
        """The rows of a part, as `Families.add` takes them."""

    def rows(self, part: int, funnel: Funnel) -> Iterator[Row]:
        """The rows of a part; what is wrong with files is told to the funnel, as is the stage `read`."""


class Files:
    """Rollouts of files."""

    def __init__(self, files: Iterable[str], options: Options, names: Mapping[str, str] | None = None) -> None:
        """Take files.

        Args:
            names: what to write as `source_path`, by path; the path where it is not among them.
        """
        self.files = list(files)
        self.options = options
        self.names = dict(names or {})
        self._parts = list(_parts(self.files))

    @property
    def parts(self) -> int:
        """See `Input`."""
        return len(self._parts)

    def weight(self, part: int) -> int:
        """See `Input`."""
        return len(self._parts[part])

    def noted(self, part: int) -> Iterator[Mapping[str, Any]]:
        """See `Input`."""
        # What is wrong with a file is told when its rows are made.
        for path in self._parts[part]:
            for rollout in self._rollouts(path, lambda *_: None):
                if rollout and (self.options.internal or rollout.internal is None):
                    yield {**vars(rollout), "source_path": self._name(rollout)}

    def rows(self, part: int, funnel: Funnel) -> Iterator[Row]:
        """See `Input`."""
        for path in self._parts[part]:
            bad: dict[str, str] = {}
            rollouts = 0

            def note(name: str, error: Exception, bad: dict[str, str] = bad) -> None:
                bad[name] = reason(name, error)

            for rollout in self._rollouts(path, note):
                rollouts += 1
                funnel.count("skipped", rollout.skipped)
                if not rollout:
                    funnel.took("read", Size(1), Size(), "no messages")
                elif rollout.internal and not self.options.internal:
                    came = size(rollout.messages)
                    funnel.took("read", came, Size(), f"the agent's own: {rollout.internal}")
                else:
                    row = {**as_row(rollout), "source_path": self._name(rollout)}
                    funnel.took("read", size(row["messages"]))
                    yield row
            funnel.files += 1
            funnel.bad_files |= bad
            funnel.count("files", ["with rollouts" if rollouts else "could not be used" if bad else "without rollouts"])

    def _name(self, rollout: Rollout) -> str:
        path, mark, member = rollout.source_path.partition("::")
        return self.names.get(path, path) + mark + member

    def _rollouts(self, path: str, note: Callable[[str, Exception], None]) -> Iterator[Rollout]:
        return each(path, self._read, note, **file_rules(self.options.format, self.options.file_pattern))

    @functools.cached_property
    def _read(self) -> Callable[..., Iterator[Rollout]]:
        return reader(self.files, self.options.format, history=self.options.history)

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens files by itself.
        return {name: value for name, value in vars(self).items() if name != "_read"}


def _parts(files: Sequence[str]) -> Iterator[tuple[str, ...]]:
    held: list[str] = []
    total = 0
    for path in files:
        held.append(path)
        total += os.path.getsize(path) if os.path.isfile(path) else _PART_BYTES
        if total >= _PART_BYTES or len(held) >= _PART_FILES:
            yield tuple(held)
            held, total = [], 0
    if held:
        yield tuple(held)


class Given:
    """Rows that were given from Python; `takes` are functions that give the rows of a part."""

    def __init__(self, takes: Sequence[Callable[[], Iterable[Mapping[str, Any]]]]) -> None:
        self.takes = takes

    @property
    def parts(self) -> int:
        """See `Input`."""
        return len(self.takes)

    def weight(self, part: int) -> int:
        """See `Input`."""
        return 1

    def noted(self, part: int) -> Iterable[Mapping[str, Any]]:
        """See `Input`."""
        return self.takes[part]()

    def rows(self, part: int, funnel: Funnel) -> Iterator[Row]:
        """See `Input`."""
        for given in self.takes[part]():
            row = dict(given)
            if not row["messages"]:
                funnel.took("read", Size(1), Size(), "no messages")
                continue
            funnel.took("read", size(row["messages"]))
            yield row
