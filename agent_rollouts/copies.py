"""One session in several files of a source: which of them is read.

Hermes Agent keeps a session in its database, as JSON and as JSON Lines at once, and its batch runner
copies rows into a file of all batches. A format that does so has two names beside `claims` and `decode`:

    MAY_REPEAT: tuple[str, ...]       names of files by which this is told, `*` wildcards
    held(source) -> Iterator[(identity, rank, size)]    what a file holds, without decoding it

The highest rank is read, then the largest, then the first by path. Copies without a name of their own
(forks, resumed and compacted sessions) are another matter: each is a conversation of its own.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def elsewhere(paths: Iterable[str], format: str = "auto") -> dict[str, frozenset[str]]:
    """For files with sessions that another of `paths` is read for: their `Rollout.identity`.

    Files are opened only when their names tell that there may be several of a session; what cannot be
    read is left to whoever reads it.
    """
    asked = [
        (name, cast(_Repeating, module))
        for name, module in DECODERS.items()
        if format in ("auto", name) and hasattr(module, "MAY_REPEAT")
    ]
    places = list(paths)
    names = [posixpath.basename(path.replace("\\", "/")) for path in places]
    asked = [
        (name, module)
        for name, module in asked
        if any(fnmatch.fnmatchcase(file, pattern) for file in names for pattern in (*module.MAY_REPEAT, "*.zip"))
    ]
    best: dict[tuple[str, str], tuple[int, int, str]] = {}
    holders: dict[tuple[str, str], list[str]] = {}
    for name, path, (identity, rank, size) in _held(places, dict(asked)):
        holders.setdefault((name, identity), []).append(path)
        known = best.get((name, identity))
        # Of equals the first by path.
        if known is None or (-rank, -size, path) < (-known[0], -known[1], known[2]):
            best[name, identity] = (rank, size, path)
    found: dict[str, set[str]] = {}
    for (name, identity), files in holders.items():
        for path in files:
            if path != best[name, identity][2]:
                found.setdefault(path, set()).add(identity)
    return {path: frozenset(identities) for path, identities in found.items()}


def reader(paths: Iterable[str], format: str = "auto", **options: Any) -> Callable[[Source], Iterator[Rollout]]:
    """`formats.read` for the files of `paths`, which gives a session that several of them hold once."""
    others = elsewhere(paths, format)
    return lambda source: read(source, format, elsewhere=others.get(source.path, ()), **options)


def _held(paths: list[str], asked: Mapping[str, _Repeating]) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
    def held(source: Source) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
        name = detect(source)
        if name and (module := asked.get(name)):
            yield from ((name, source.path, one) for one in module.held(source))

    if asked:
        for path in paths:
            yield from each(path, held, lambda *_: None, **file_rules("auto"))
