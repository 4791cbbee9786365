"""Plain conversations, read plainly."""

from __future__ import annotations

import json
from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, chat_message, chat_parts, id_of, is_blank, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant"}
_ROLES |= {"observation": "tool", "function_response": "tool", "tool_response": "tool"}
_PLAIN = ("user", "assistant", "model", "system", "tool")
_THOUGHT = ("reasoning_content", "reasoning", "thinking")


def raw(source: Source) -> Iterator[Raw]:
    """What the conversations of a file hold, whatever its shape."""
    for number, record in enumerate(_records(source)):
        if not isinstance(record, dict) or "preferred_output" in record or {"chosen", "rejected"} <= set(record):
            continue
        messages = list(_messages(record))
        if messages and messages[0] is not record:
            beside = [record.get(key) for key in ("images", "videos", "audios")]
            yield from (Raw("media", None, None) for found in beside if isinstance(found, list) for _ in found)
            for key in ("system", "instructions"):
                if record.get(key) and (key == "system" or "input" in record):
                    messages.insert(0, {"role": "system", "content": record[key]})
        for index, message in enumerate(messages):
            if isinstance(message, dict):
                yield from _one(message, id_of(message.get("id")) or f"{number}.{index}")


def _records(source: Source) -> Iterator[JSON]:
    with source.open() as stream:
        text = stream.read().decode("utf-8", "replace").lstrip("\ufeff")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        yield from records(source)
        return
    yield from document if isinstance(document, list) else [document]


def _messages(record: dict[str, JSON]) -> Iterator[JSON]:
    thought = {key: record[key] for key in _THOUGHT if isinstance(record.get(key), str)}
    match record:
        case {"messages": list(found)} | {"conversations": list(found)} if any(map(_is_one, found)):
            yield from found
        case {"prompt": ask, "response": answer} | {"prompt": ask, "completion": answer} if _list(ask) and _list(
            answer
        ):
            for role, side, beside in (("user", ask, {}), ("assistant", answer, thought)):
                yield from [{"role": role, "content": side, **beside}] if isinstance(side, str) else _list(side)
        case {"instruction": str(ask), "output": str(answer)}:
            history, more = record.get("history"), record.get("input")
            for pair in history if isinstance(history, list) else ():
                if isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair):
                    yield {"role": "user", "content": pair[0]}
                    yield {"role": "assistant", "content": pair[1]}
            yield {"role": "user", "content": f"{ask}\n{more}" if isinstance(more, str) and more else ask}
            yield {"role": "assistant", "content": answer, **thought}
        case {"input": ask, "output": list(items)} if _has_items(items) and (isinstance(ask, str) or _has_items(ask)):
            yield from [{"role": "user", "content": ask}] if isinstance(ask, str) else ask
            yield from items
        case {"role": _} if "content" in record or _is_one(record):
            yield record


def _list(side: JSON) -> list[JSON]:
    """The text or the messages of a side, nothing where it is neither."""
    found = side if isinstance(side, list) else [side]
    return found if isinstance(side, str) or any(_is_one(one) and "role" in one for one in found) else []


def _is_one(message: JSON) -> bool:
    if not isinstance(message, dict):
        return False
    if isinstance(message.get("from"), str) and "value" in message:
        return True
    says = {"content", "tool_calls", "function_call", "tool_call_id"} & set(message)
    return bool(says) and message.get("role") in ("developer", "human", "ai", "function", *_PLAIN)


def _has_items(items: JSON) -> bool:
    """Whether something in a list is an item of the Responses API."""
    kinds = ("reasoning", "function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output")
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return any(_is_one(item) or item.get("type") in kinds for item in found)


def _one(message: dict[str, JSON], key: str) -> Iterator[Raw]:
    speaker, kind = message.get("from"), message.get("type")
    if "role" in message:
        yield from chat_message(_split(message), key)
    elif speaker in ("function_call", "tool_call") and "value" in message:
        value = message["value"]
        try:
            calls = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            calls = None
        found = calls if isinstance(calls, list) else [calls]
        if found and all(isinstance(call, dict) and (call.get("name") or call.get("function")) for call in found):
            yield from chat_message({**message, "role": "assistant", "tool_calls": found}, key)
        else:
            yield Raw("tool_call", None, ("", None))
            yield Raw(
                "answer",
                key,
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":")),
            )
    elif isinstance(speaker, str) and "value" in message:
        role = _ROLES.get(speaker, speaker if speaker in _PLAIN else "")
        yield from chat_message(_split({**message, "role": role, "content": message["value"]}), key)
    elif kind == "reasoning":
        yield from chat_parts([message], key)[0]
    elif kind == "function_call":
        given = message.get("arguments")
        yield Raw("tool_call", id_of(message.get("call_id")), (message.get("name"), {} if is_blank(given) else given))
    elif kind == "custom_tool_call":
        yield Raw("tool_call", id_of(message.get("call_id")), (message.get("name"), {"input": message.get("input")}))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        result = {"role": "tool", "tool_call_id": message.get("call_id"), "content": message.get("output")}
        yield from chat_message(result, key)
    elif isinstance(kind, str) and kind.endswith("_call"):
        yield Raw("tool_call", None, ("", None))
    elif kind is None and "content" in message:
        yield from chat_message(message, key)


def _split(message: dict[str, JSON]) -> dict[str, JSON]:
    """The reasoning that stands before an answer, as a field of its own."""
    text = message.get("content")
    if message["role"] not in ("assistant", "model", "ai") or not isinstance(text, str) or "</think>" not in text:
        return message
    if not text.startswith("<think>") or any(isinstance(message.get(k), str) and message[k].strip() for k in _THOUGHT):
        return message
    before, after = text.split("</think>", 1)
    thought = before[len("<think>") :].removeprefix("\n").removesuffix("\n")
    return {**message, "thinking": thought, "content": after.lstrip("\n")}
