"""Sessions of Pi and its descendants, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The parts of all messages, whichever branch they lie on."""
    for number, record in enumerate(records(source)):
        key = str(record.get("id") or number)
        match record:
            case {"type": "custom_message"}:
                yield from _said("prompt", key, record.get("content"))
            case {"type": "branch_summary", "summary": str(summary)}:
                yield Raw("prompt", key, f"<summary>\n{summary}")
            case {"type": "session_init", "systemPrompt": str(prompt)} if prompt:
                yield Raw("prompt", key, prompt)
            case {"type": "message", "message": dict(message)}:
                yield from _message(message, key)


def _message(message: dict[str, JSON], key: str) -> Iterator[Raw]:
    content = message.get("content")
    match message.get("role"):
        case "assistant":
            yield from _said("answer", key, content)
        case "toolResult":
            yield Raw("tool_result", id_of(message.get("toolCallId")), "\n".join(_texts(content)))
            yield from _media(content)
        case "bashExecution" | "pythonExecution":
            yield Raw("prompt", key, str(message.get("output") or message.get("command") or message.get("code") or ""))
        case "fileMention":
            files = message.get("files")
            for file in files if isinstance(files, list) else []:
                match file:
                    case {"content": str(text)} if text:
                        yield Raw("prompt", key, text)
                    case {"image": dict()}:
                        yield Raw("media", None, None)
        case "system":
            yield from _said("prompt", key, content)
            sections = message.get("sections")
            for section in sections.values() if isinstance(sections, dict) else []:
                if isinstance(section, str):
                    yield Raw("prompt", key, section)
        case "user" | "custom" | "hookMessage" | "developer":
            yield from _said("prompt", key, content)


def _said(kind: str, key: str, content: JSON) -> Iterator[Raw]:
    for text in _texts(content):
        if text:
            yield Raw(kind, key, text)
    yield from _media(content)
    for block in content if kind == "answer" and isinstance(content, list) else []:
        match block:
            case {"type": "thinking", "redacted": True} | {"type": "redactedThinking"}:
                yield Raw("reasoning", key, "")
            case {"type": "thinking", "thinking": str(text)}:
                yield Raw("reasoning", key, text if text.strip() else "")
            case {"type": "toolCall"}:
                arguments = block.get("arguments")
                yield Raw("tool_call", id_of(block.get("id")), (block.get("name"), arguments or {}))


def _texts(content: JSON) -> list[str]:
    texts = []
    for block in content if isinstance(content, list) else [content]:
        match block:
            case str(text) | {"type": "text", "text": str(text)}:
                texts.append(text)
    return texts


def _media(content: JSON) -> Iterator[Raw]:
    for block in content if isinstance(content, list) else []:
        match block:
            case str() | {"type": "text", "text": str()} | {"type": "thinking" | "redactedThinking" | "toolCall"}:
                pass
            case _:
                yield Raw("media", None, None)
