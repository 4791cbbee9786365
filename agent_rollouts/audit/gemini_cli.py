"""Gemini CLI, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """Messages by their id: of those in records of their own the last, of those in checkpoints the first."""
    messages: dict[str, dict[str, JSON]] = {}
    for number, record in enumerate(_records(source)):
        if isinstance(record.get("id"), str):
            messages[record["id"]] = record
            continue
        inner = record.get("$set")
        inner = inner if isinstance(inner, dict) else {}
        for place, message in enumerate(_objects(inner.get("messages"))):
            messages.setdefault(str(message.get("id") or f"{number} {place}"), message)
        for place, message in enumerate(_objects(record.get("messages")) or _objects(record.get("history"))):
            messages[str(message.get("id") or f"{number} {place}")] = message
    for key, message in messages.items():
        kind = message.get("type") or message.get("role")
        content = message.get("content", message.get("parts"))
        if kind in ("user", "gemini", "model") or (kind == "info" and isinstance(content, list)):
            yield from _message(message, content, key, is_answer=kind in ("gemini", "model"))


def _records(source: Source) -> Iterator[dict[str, JSON]]:
    with source.open() as stream:
        try:
            document = orjson.loads(stream.read())
        except ValueError:
            document = None
    if document is None:
        yield from records(source)
    else:
        yield document if isinstance(document, dict) else {"history": document}


def _objects(value: JSON) -> list[dict[str, JSON]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _message(message: dict[str, JSON], content: JSON, key: str, *, is_answer: bool) -> Iterator[Raw]:
    parts: list[dict[str, JSON]] = [{"text": content}] if isinstance(content, str) else _objects(content)
    calls = _objects(message.get("toolCalls"))
    left = list(calls)
    for part in parts:
        if isinstance(call := part.get("functionCall"), dict):
            # Without an id it is the next of its name in `toolCalls`.
            key_of = "id" if call.get("id") else "name"
            same = next((one for one in left if one.get(key_of) == call.get(key_of)), call)
            left = [one for one in left if one is not same]
            yield Raw("tool_call", id_of(same.get("id")), (call.get("name"), call.get("args") or {}))
    yield from (Raw("tool_call", id_of(call.get("id")), (call.get("name"), call.get("args") or {})) for call in left)
    for call in calls:
        if call.get("result"):
            yield Raw("tool_result", id_of(call.get("id")), None)
            for part in _objects(call["result"]):
                yield from _media(part)
    found = [part.get("text") for part in parts if part.get("thought") is True]
    thoughts = [text for text in found if isinstance(text, str) and text]
    for thought in [] if found else _objects(message.get("thoughts")):
        subject, description = thought.get("subject"), thought.get("description") or ""
        thoughts.append(f"**{subject}** {description}" if subject else str(description))
    yield from (Raw("reasoning", key, text) for text in thoughts)
    texts = []
    is_result = False
    for part in parts:
        if isinstance(part.get("functionResponse"), dict):
            is_result = True
            yield Raw("tool_result", id_of(part["functionResponse"].get("id")), None)
        elif isinstance(part.get("text"), str) and not part.get("thought") and not is_result:
            texts.append(part["text"])
        yield from _media(part)
    if any(texts):
        yield Raw("answer" if is_answer else "prompt", key, "".join(texts))


def _media(part: dict[str, JSON]) -> Iterator[Raw]:
    """Whatever is neither text nor call nor response, also within a response."""
    response = part.get("functionResponse")
    for one in [part, *_objects(response.get("parts") if isinstance(response, dict) else None)]:
        if one.keys().isdisjoint(("text", "thought", "thoughtSignature", "functionCall", "functionResponse")):
            yield Raw("media", None, None)
