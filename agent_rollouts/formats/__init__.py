"""The formats: one module each, `DECODERS` the one table, `read` from a file to rollouts.

A format is a module with two functions:

    claims(head: Head) -> bool             whether a file that begins like this is of the format
    decode(source: Source) -> Iterator[Event]

and a description in `builder_configs/<name>.yaml`, by which it is found. Modules with an underscore are
what formats share.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Protocol, cast

from agent_rollouts.configs import formats
from agent_rollouts.errors import FormatError
from agent_rollouts.events import Event
from agent_rollouts.formats import _sqlite
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import HEAD_RECORDS, Head, Source


class Format(Protocol):
    """What a format's module holds."""

    @property
    def claims(self) -> Callable[[Head], bool]:
        """Whether a file that begins like this is of the format."""

    @property
    def decode(self) -> Callable[[Source], Iterator[Event]]:
        """The events of a file."""


DECODERS: dict[str, Format] = {
    name: cast(Format, importlib.import_module(f"agent_rollouts.formats.{name}")) for name in formats()
}
# Lines that any program may have written: asked when no agent's own format claims a file.
GENERIC = frozenset({"chat_completions"})


def detect(source: Source) -> str | None:
    """The format that claims a file, judged by its first 64 KiB, or None.

    Raises:
        FormatError: two formats claim it.
    """
    for generic in (False, True):
        asked = [(name, format) for name, format in DECODERS.items() if (name in GENERIC) is generic]
        # The first record tells, unless it is damaged or says little.
        for records in (1, 2, 4, HEAD_RECORDS):
            source.head.limit = records
            if claiming := [name for name, format in asked if format.claims(source.head)]:
                break
        if len(claiming) > 1:
            raise FormatError(f"{source.path} is claimed by {' and '.join(claiming)}; name the format")
        if claiming:
            return claiming[0]
    return detect(source) if _reads_schema(source) else None


def read(
    source: Source,
    format: str = "auto",
    *,
    history: str = "full",
    branches: str = "active",
    strict: bool = False,
    elsewhere: Collection[str] = (),
    copies: bool = False,
) -> Iterator[Rollout]:
    """The rollouts of one file, also those without messages and the agent's internal ones.

    Args:
        format: a name in `DECODERS`, or `auto`.
        history, branches: see `agent_rollouts.rollout.assemble`.
        strict: whether damage, or a breach of the format's specification where there is one, is an error.
        elsewhere: identities of rollouts that another file is read for; of these only the count is left.
        copies: whether these are given all the same, the file's name behind their `trace_id`.

    Raises:
        FormatError: the file is not of the format (of any, with `auto`); with `strict`, what is wrong in it.
        OSError: the file cannot be read.
    """
    if format not in ("auto", *GENERIC) and _is_of(source, format):
        known: str | None = format
    else:
        known = detect(source)
    if known is None or format not in ("auto", known):
        of = "any known format" if format == "auto" else format
        raise FormatError(f"{source.path} is not of {of}" + (f", it looks like {known}" if known else ""))
    seen: set[str] = set()
    source.strict = strict
    for rollout in assemble(DECODERS[known].decode(source), history=history, branches=branches):
        if strict and source.damage:
            raise FormatError(f"{source.path}: {', '.join(f'{why} ({n})' for why, n in source.damage.items())}")
        if not rollout.trace_id or rollout.trace_id.startswith("#"):
            # Only the number of a segment or branch is known of it.
            rollout.trace_id = source.stem + rollout.trace_id
        if rollout.identity in elsewhere:
            if copies:
                rollout.trace_id += f"@{source.name}"
            else:
                rollout = Rollout(rollout.trace_id, skipped=Counter({"rollout: read from another file": 1}))
        rollout.trace_id = _unique(rollout.trace_id, seen)
        rollout.source_kind = known
        rollout.source_path = source.path
        rollout.skipped += source.damage
        source.damage.clear()
        yield rollout


def _is_of(source: Source, format: str) -> bool:
    """Whether a format claims a file when it alone is asked."""
    source.head.limit = HEAD_RECORDS
    claims = DECODERS[format].claims
    return claims(source.head) or (_reads_schema(source) and claims(source.head))


def _reads_schema(source: Source) -> bool:
    """Put the tables of a database into its head, where they are not: a grown one describes them far behind."""
    head = source.head
    if not head.data.startswith(_sqlite.MAGIC) or head.data.endswith(_sqlite.END):
        return False
    head.data += _sqlite.schema(source) + _sqlite.END
    return True


def _unique(trace_id: str, seen: set[str]) -> str:
    """`trace_id`, with the first free `#k` behind it where the file already has a rollout of that name."""
    name, number = trace_id, 0
    while name in seen:
        number += 1
        name = f"{trace_id}#{number}"
    seen.add(name)
    return name
