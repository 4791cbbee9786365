"""Pi: `~/.pi/agent/sessions/--<folder>--/<time>_<id>.jsonl`; see `agent_rollouts.formats._pi`.

    {"type":"session","id":"…","timestamp":"…","cwd":"/w","provider":"anthropic","modelId":"…","thinkingLevel":"off"}
    {"type":"session","version":3,"id":"…","timestamp":"…Z","cwd":"/w","parentSession":"/…/<time>_<id>.jsonl"}

Version 1 (until 0.30) is the first of these headers: no version, entries without ids, `firstKeptEntryIndex`
and `branchedFrom`. Version 2 brought the tree; version 3 renamed the role `hookMessage` to `custom`.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.events import Event
from agent_rollouts.formats._pi import PI, Session, family
from agent_rollouts.source import Head, Source


def claims(head: Head) -> bool:
    """Whether this is a session of Pi, and nothing tells of one of its descendants."""
    return family(head) == PI


def decode(source: Source) -> Iterator[Event]:
    """The one session of a file."""
    return Session(source).events()
