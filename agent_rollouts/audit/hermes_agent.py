"""Hermes Agent, read plainly."""

from __future__ import annotations

import json
from collections.abc import Iterator

from agent_rollouts import jsontext
from agent_rollouts.audit.raw import Raw, chat_message, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.formats._sqlite import MAGIC, database
from agent_rollouts.source import Source

_TAGS = ("think", "thinking", "thought", "reasoning", "REASONING_SCRATCHPAD")


def raw(source: Source) -> Iterator[Raw]:
    """The messages of all sessions in a file; those a compaction repeats are there as often as they are written."""
    key = 0
    are_unnamed = False
    for session in _sessions(source):
        if isinstance(prompt := session.get("system_prompt"), str) and prompt:
            yield Raw("prompt", None, prompt)
        for message in session["messages"]:
            if not isinstance(message, dict):
                continue
            key += 1
            if isinstance(message.get("tool_calls"), str) and not isinstance(
                _plain(message)["tool_calls"], (list, dict)
            ):
                yield Raw("tool_call", None, None)
            message = _plain(message)
            if message.get("role") == "assistant":
                calls = message.get("tool_calls")
                calls = [calls] if isinstance(calls, dict) else calls if isinstance(calls, list) else []
                are_unnamed = any(isinstance(call, dict) and not _call_id(call) for call in calls)
                yield from _answer(message, calls, str(message.get("id") or f"message {key}"))
            elif message.get("role") in ("user", "system", "tool"):
                for one in chat_message(message, str(message.get("id") or f"message {key}")):
                    yield one._replace(key=None) if one.kind == "tool_result" and are_unnamed else one


def _answer(message: dict[str, JSON], calls: list[JSON], key: str) -> Iterator[Raw]:
    text = message.get("content")
    inside = None
    for tag in _TAGS if isinstance(text, str) else ():
        opened, closed = f"<{tag}>", f"</{tag}>"
        if str(text).lstrip().startswith(opened) and closed in str(text):
            inside, _, rest = str(text).lstrip().removeprefix(opened).partition(closed)
            text = rest.lstrip("\n")
            break
    yield from chat_message({"role": "assistant", "content": text}, key)
    thought = _thought(message)
    if thought is not None:
        yield Raw("reasoning", key, thought)
    if inside is not None and inside.strip():
        yield Raw("reasoning", key, inside.removeprefix("\n").removesuffix("\n"))
    if thought is None and not (inside or "").strip() and _hides(message):
        yield Raw("reasoning", key, "")
    for call in calls:
        call = call if isinstance(call, dict) else {}
        function = call.get("function", call)
        function = function if isinstance(function, dict) else {}
        given = function.get("arguments")
        given = {} if given is None or given == "" else given
        yield Raw("tool_call", _call_id(call), (function.get("name"), given))


def _call_id(call: dict[str, JSON]) -> str | None:
    return id_of(call.get("id") or call.get("call_id"))


def _thought(message: dict[str, JSON]) -> str | None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(message.get(name), str) and message[name].strip():
            return str(message[name])
    details = [part for part in _items(message, "reasoning_details") if isinstance(part, dict)]
    texts = [part.get(name) for part in details for name in ("text", "thinking", "summary")]
    if found := [text for text in texts if isinstance(text, str) and text.strip()]:
        return "\n".join(found)
    parts = [part for item in _items(message, "codex_reasoning_items") for part in _items(item, "summary")]
    found = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n\n".join(text for text in found if text) or None


def _hides(message: dict[str, JSON]) -> bool:
    hidden = [*_items(message, "reasoning_details"), *_items(message, "codex_reasoning_items")]
    return any(isinstance(item, dict) and ("data" in item or item.get("encrypted_content")) for item in hidden)


def _items(holder: JSON, name: str) -> list[JSON]:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, list) else []


def _plain(message: dict[str, JSON]) -> dict[str, JSON]:
    """Fields that are JSON text as what they say, and the content as the model saw it."""
    message = dict(message)
    for name in ("tool_calls", "reasoning_details", "codex_reasoning_items"):
        if isinstance(message.get(name), str):
            value = jsontext.loads_exactly(message[name])
            message[name] = None if isinstance(value, str) else value
    content = message.get("content")
    if isinstance(content, str) and content.startswith("\x00json:"):
        content = jsontext.loads_exactly(content.removeprefix("\x00json:"))
    if isinstance(content, dict):
        has_parts = content.get("_multimodal") is True and isinstance(content.get("content"), list)
        content = content["content"] if has_parts else content if "type" in content else _compact(content)
    elif isinstance(content, (int, float)):
        content = str(content)
    if message.get("api_content") and message.get("role") in ("user", "assistant"):
        content = message["api_content"]
    return {**message, "content": content}


def _compact(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _sessions(source: Source) -> Iterator[dict[str, JSON]]:
    with source.open() as stream:
        start = stream.read(len(MAGIC))
    if start == MAGIC:
        yield from _database(source)
        return
    if source.name.endswith(".json"):
        document = source.document()
        if isinstance(document, dict):
            yield document if isinstance(document.get("messages"), list) else {"messages": []}
        return
    for record in records(source):
        if isinstance(record.get("messages"), list):
            yield record
        elif "messages" not in record:
            yield {"messages": [record]}


def _database(source: Source) -> Iterator[dict[str, JSON]]:
    with database(source) as connection:
        for (prompt,) in connection.execute("SELECT system_prompt FROM sessions"):
            yield {"system_prompt": prompt, "messages": []}
        for row in connection.execute("SELECT * FROM messages ORDER BY session_id, id"):
            yield {"messages": [dict(row)]}
