"""Inspect, read plainly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from agent_rollouts.audit.raw import Raw, chat_message, id_of
from agent_rollouts.errors import FormatError
from agent_rollouts.events import JSON
from agent_rollouts.formats import _zip
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The messages of every sample."""
    for number, sample in enumerate(_samples(source)):
        if not isinstance(sample, dict):
            continue
        attachments = sample.get("attachments")
        kept = attachments if isinstance(attachments, dict) else {}
        messages = sample.get("messages")
        for place, message in enumerate(messages if isinstance(messages, list) else []):
            if isinstance(message, dict):
                yield from _message(_filled(message, kept), f"{number}.{place}")


def _samples(source: Source) -> Iterator[JSON]:
    if not source.head.data.startswith(b"PK"):
        yield from source.document().get("samples") or []
        return
    with _zip.archive(source) as opened:
        names = set(opened.namelist())

        def read(name: str) -> JSON:
            with suppress(*_zip.DAMAGE, FormatError):
                return Source(name, _zip.member(opened, name)).document()
            return None

        for name in names:
            folder = name.removesuffix("sample.json")
            if folder != name:
                shell = read(name)
                pool = _chunks(folder + "messages/", names, read)
                refs = shell.get("message_refs", ()) if isinstance(shell, dict) else ()
                texts = {str(number): text for number, text in enumerate(_chunks(folder + "attachments/", names, read))}
                yield {"messages": [one for start, end in refs for one in pool[start:end]], "attachments": texts}
            elif name.startswith("samples/") and name.removesuffix(".json").rpartition("_epoch_")[2].isdigit():
                yield read(name)


def _chunks(folder: str, names: set[str], read: JSON) -> list[JSON]:
    starts = [name.removeprefix(folder).removesuffix(".json") for name in names if name.startswith(folder)]
    return [
        one for start in sorted(int(s) for s in starts if s.isdigit()) for one in read(f"{folder}{start}.json") or []
    ]


def _filled(value: JSON, attachments: dict[str, JSON]) -> JSON:
    if isinstance(value, dict):
        return {key: _filled(item, attachments) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, attachments) for item in value]
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), value)
    return value


def _message(message: dict[str, JSON], key: str) -> Iterator[Raw]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [] if content is None else [content]
    plain = []
    for part in parts:
        match part:
            case {"type": "reasoning", **more}:
                texts = [more.get("reasoning") if not more.get("redacted") else "", more.get("summary")]
                yield Raw("reasoning", key, next((text for text in texts if text), ""))
            case {"type": "tool_use", "id": str(id), "name": name, **more}:
                yield Raw("tool_call", id, (name, more.get("arguments") or {}))
                yield Raw("tool_result", id, more.get("error") or more.get("result") or "")
            case {"type": "data"}:
                pass
            case _:
                plain.append(part)
    error = message.get("error")
    if message.get("role") == "tool" and isinstance(error, dict):
        yield Raw("tool_result", id_of(message.get("tool_call_id")), error.get("message") or "")
        return
    calls = message.get("tool_calls")
    given = [
        {"id": call.get("id"), "function": {"name": call.get("function"), "arguments": call.get("arguments")}}
        if isinstance(call, dict)
        else {}
        for call in (calls if isinstance(calls, list) else [])
    ]
    yield from chat_message({**message, "content": plain, "tool_calls": given}, key)
