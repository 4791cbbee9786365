"""Claude Code, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """Blocks of user and assistant records; a record that stands twice (same uuid) is read once."""
    seen: set[str] = set()
    for number, record in enumerate(records(source)):
        uuid = record.get("uuid")
        if isinstance(uuid, str):
            if uuid in seen:
                continue
            seen.add(uuid)
        message = record.get("message")
        if not isinstance(message, dict):
            message = {"content": message}
        content = message.get("content")
        match record.get("type"):
            case "user":
                yield from _blocks("prompt", str(uuid or number), content)
            case "assistant":
                id = message.get("id") or record.get("requestId") or uuid or number
                yield from _blocks("answer", str(id), content)
            case "attachment":
                match record.get("attachment"):
                    case {"type": "queued_command", "prompt": parts} | {"type": "file", "content": parts}:
                        yield from _media(parts)


def _blocks(said: str, key: str, content: JSON) -> Iterator[Raw]:
    for block in content if isinstance(content, list) else [content]:
        match block:
            case str(text) | {"type": "text", "text": str(text)} if text:
                yield Raw(said, key, text)
            case {"type": "tool_use" | "server_tool_use" | "mcp_tool_use", **call} if said == "answer":
                arguments = {} if call.get("input") is None else call["input"]
                yield Raw("tool_call", id_of(call.get("id")), (call.get("name"), arguments))
            case {"type": "tool_result"} | {"tool_use_id": str()}:
                yield Raw("tool_result", id_of(block.get("tool_use_id")), _text(block.get("content")))
                yield from _media(block.get("content"))
            case {"type": "thinking", "thinking": str(text)} if said == "answer":
                yield Raw("reasoning", key, text)
            case {"type": "redacted_thinking"} if said == "answer":
                yield Raw("reasoning", key, "")
            case {"type": "image" | "document"} if said == "prompt":
                yield Raw("media", None, None)


def _text(content: JSON) -> str | None:
    """The text of a result, None where it holds blocks that are neither text nor media."""
    texts = []
    for block in content if isinstance(content, list) else [content or ""]:
        match block:
            case str(text) | {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image" | "document"}:
                pass
            case _:
                return None
    return "\n".join(texts)


def _media(content: JSON) -> Iterator[Raw]:
    for block in content if isinstance(content, list) else [content]:
        match block:
            case {"type": "image" | "document"}:
                yield Raw("media", None, None)
