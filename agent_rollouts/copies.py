"""One session in several files of a source: which of them is read.

Hermes Agent keeps a session in its database, as JSON and as JSON Lines at once, and its batch runner
copies rows into a file of all batches. A format that does so has two names beside `claims` and `decode`:

    MAY_REPEAT: tuple[str, ...]       names of files by which this is told, `*` wildcards
    held(source) -> Iterator[(identity, rank, size)]    what a file holds, without decoding it

The highest rank is read, then the largest, then the first by path. Copies under another name (forked,
resumed and compacted sessions) are another matter: see `agent_rollouts.distill.families`.
"""

from __future__ import annotations

import fnmatch
import functools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

from agent_rollouts.configs import file_rules
from agent_rollouts.formats import DECODERS, detect, read
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import Source, each


class _Repeating(Protocol):
    MAY_REPEAT: Sequence[str]

    @property
    def held(self) -> Callable[[Source], Iterator[tuple[str, int, int]]]:
        """Identity, rank and size of every session in a file."""


class Copies:
    """What the files of a source hold more than once. Nothing is opened before the first question."""

    def __init__(self, paths: Iterable[str], format: str = "auto") -> None:
        self.paths = list(paths)
        self.format = format

    def elsewhere(self, source: Source) -> frozenset[str]:
        """The identities of a file's rollouts that another file is read for."""
        return self._elsewhere.get(source.path, frozenset())

    @functools.cached_property
    def _elsewhere(self) -> dict[str, frozenset[str]]:
        best: dict[tuple[str, str], tuple[int, int, str]] = {}
        holders: dict[tuple[str, str], list[str]] = {}
        for name, path, (identity, rank, size) in self._held():
            holders.setdefault((name, identity), []).append(path)
            known = best.get((name, identity))
            # Of equals the first by path.
            if known is None or (-rank, -size, path) < (-known[0], -known[1], known[2]):
                best[name, identity] = (rank, size, path)
        found: dict[str, set[str]] = {}
        for held, files in holders.items():
            for path in files:
                if path != best[held][2]:
                    found.setdefault(path, set()).add(held[1])
        return {path: frozenset(identities) for path, identities in found.items()}

    def _held(self) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
        """Files are opened only when names tell that there may be several of a session."""
        asked = {
            name: cast(_Repeating, module)
            for name, module in DECODERS.items()
            if self.format in ("auto", name) and hasattr(module, "MAY_REPEAT")
        }
        names = list(self._names()) if asked else []
        asked = {
            name: module
            for name, module in asked.items()
            if any(fnmatch.fnmatchcase(file, pattern) for file in names for pattern in module.MAY_REPEAT)
        }

        def held(source: Source) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
            name = detect(source)
            if name and (module := asked.get(name)):
                yield from ((name, source.path, one) for one in module.held(source))

        # What cannot be read is left to whoever reads it.
        for path in self.paths if asked else ():
            yield from each(path, held, lambda *_: None, **file_rules(self.format))

    def _names(self) -> Iterator[str]:
        for path in self.paths:
            if path.endswith(".zip"):
                yield from each(path, lambda member: [member.name], lambda *_: None, **file_rules(self.format))
            yield posixpath.basename(path.replace("\\", "/"))


def reader(paths: Iterable[str], format: str = "auto", **options: Any) -> Callable[[Source], Iterator[Rollout]]:
    """`formats.read` for the files of `paths`, which gives a session that several of them hold once."""
    copies = Copies(paths, format)
    return lambda source: read(source, format, elsewhere=copies.elsewhere(source), **options)
