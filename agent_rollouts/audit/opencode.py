"""opencode, read plainly."""

from __future__ import annotations

import json
from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of
from agent_rollouts.events import JSON
from agent_rollouts.formats._sqlite import MAGIC, database
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The parts of all messages, each by itself, and the system prompts of a session, each once."""
    prompts: set[tuple[str | None, str]] = set()
    for session, info, parts in _messages(source):
        role, key = info["role"], id_of(info.get("id"))
        system = info.get("system") if info.get("summary") is not True else None
        for text in system if isinstance(system, list) else [system]:
            if isinstance(text, str) and text and (session, text) not in prompts:
                prompts.add((session, text))
                yield Raw("prompt", None, text)
        for part in parts:
            if isinstance(part, dict):
                yield from _part(role, key, part)


def _part(role: str, key: str | None, part: dict[str, JSON]) -> Iterator[Raw]:
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


def _messages(source: Source) -> Iterator[tuple[str | None, dict[str, JSON], list[JSON]]]:
    """Every message: its session where a file has several, what is said about it, and its parts."""
    if source.head.data.startswith(MAGIC):
        with database(source) as connection:
            query = "SELECT id, session_id, data FROM message ORDER BY session_id, time_created, id"
            for key, session, data in connection.execute(query):
                found = connection.execute("SELECT data FROM part WHERE message_id = ? ORDER BY id", (key,))
                yield session, {**json.loads(data), "id": key}, [json.loads(part) for (part,) in found]
        return
    document = source.document()
    for message in document.get("messages", ()) if isinstance(document, dict) else document:
        match message:
            case {"info": {"role": "user" | "assistant"} as info, "parts": list(parts)}:
                yield None, info, parts
