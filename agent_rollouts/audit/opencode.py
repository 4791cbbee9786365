"""opencode, read plainly."""

from __future__ import annotations

import json
from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of
from agent_rollouts.events import JSON
from agent_rollouts.formats._sqlite import MAGIC, database
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The parts of all messages, each by itself."""
    for role, key, part in _parts(source):
        match part:
            case {"type": "text", "text": str(text)} if text:
                yield Raw("prompt" if role == "user" else "answer", key, text)
            case {"type": "reasoning"} if role == "assistant":
                thought = part.get("text")
                yield Raw("reasoning", key, thought if isinstance(thought, str) else "")
            case {"type": "file"}:
                yield Raw("media", None, None)
            case {"type": "tool", "tool": str(name), "state": dict(state)} if name and role == "assistant":
                call = id_of(part.get("callID"))
                yield Raw("tool_call", call, (name, state.get("input") or state.get("raw") or {}))
                yield from _result(call, state)
            case {"type": "tool"} if role == "assistant":
                yield Raw("tool_call", None, (None, {}))


def _result(call: str | None, state: dict[str, JSON]) -> Iterator[Raw]:
    shown: JSON = None
    match state:
        case {"status": "pending" | "running"}:
            return
        case {"status": "completed", "output": str(text)}:
            shown = text
            files = state.get("attachments")
            yield from (Raw("media", None, None) for _ in (files if isinstance(files, list) else ()))
        case {"status": "error", "metadata": {"interrupted": True, "output": str(text)}} | {
            "status": "error",
            "error": str(text),
        }:
            shown = text
    yield Raw("tool_result", call, shown)


def _parts(source: Source) -> Iterator[tuple[str, str | None, dict[str, JSON]]]:
    """Every part with the role and the id of its message."""
    if source.head.data.startswith(MAGIC):
        query = (
            "SELECT message.id, message.data, part.data FROM part JOIN message ON part.message_id = message.id"
            " ORDER BY message.session_id, message.time_created, message.id, part.id"
        )
        with database(source) as connection:
            for key, info, data in connection.execute(query):
                found = json.loads(info), json.loads(data)
                yield str(found[0].get("role")), key, found[1]
        return
    document = source.document()
    for message in document.get("messages", ()) if isinstance(document, dict) else document:
        match message:
            case {"info": {"role": "user" | "assistant" as role, **info}, "parts": list(parts)}:
                yield from ((role, id_of(info.get("id")), part) for part in parts if isinstance(part, dict))
