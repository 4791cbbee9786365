"""The texts of a row: each is visited with what names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import orjson

from agent_rollouts.distill.redact.scan import context_of
from agent_rollouts.events import JSON
from agent_rollouts.jsontext import exact_text

Row: TypeAlias = Mapping[str, Any]
Key: TypeAlias = "tuple[str, str | None]"  # a text, and what names it
Visit: TypeAlias = Callable[[str, "str | None"], str]

_UNREAD = frozenset({"source_kind", "model", "started_at", "ended_at", "redactions", "redaction_policy"})
_UNREAD_KEYS = frozenset(
    {"role", "id", "name", "type", "timestamp", "origin", "phase", "tool_call_id", "weight_reason"}
)


def parts_of(row: Row) -> Iterator[tuple[str, Any]]:
    """Column and value of all that `walk_part` takes: a message, or another column as a whole."""
    for column, value in row.items():
        if column == "messages" and value is not None:
            yield from ((column, message) for message in value)
        else:
            yield column, value


def texts_of(column: str, value: Any) -> list[Key]:
    """The texts of such a part, in order."""
    found: list[Key] = []

    def visit(text: str, context: str | None) -> str:
        found.append((text, context))
        return text

    walk_part(column, value, visit)
    return found


def walk_part(column: str, value: Any, visit: Visit) -> Any:
    """The value with `visit(text, what names it)` for each text in it, keys included."""
    if column in _UNREAD or value is None:
        return value
    if column == "messages":
        return _stored(value, lambda found: _walk_message(found, visit))
    if column == "media":
        return [_walk_media(medium, visit) for medium in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        return _stored(value, lambda found: _walk(found, visit, None))
    if isinstance(value, list):
        # `prompt` and the like: messages in other columns are read as those in `messages`, whose ids are no text.
        return [_stored(item, lambda found: _walk_item(found, visit)) for item in value]
    return _walk(value, visit, None)


def _stored(value: Any, walk: Callable[[Any], Any]) -> Any:
    """An object, or one that is stored as JSON text (the same text again when nothing is changed)."""
    if not isinstance(value, str | bytes):
        return walk(value)
    try:
        parsed = orjson.loads(value)
    except ValueError:
        parsed = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        changed = walk(parsed)
        return value if changed == parsed else changed
    changed = walk(parsed)
    if changed == parsed:
        return value
    try:
        text = orjson.dumps(changed)
    except TypeError:
        text = exact_text(changed).encode()
    return text if isinstance(value, bytes) else text.decode()


def _walk_message(message: Any, visit: Visit) -> Any:
    if not isinstance(message, dict):
        return _walk(message, visit, None)
    found = {}
    for key, value in message.items():
        if key == "tool_calls" and isinstance(value, list):
            found[key] = [_walk_call(call, visit) for call in value]
        elif key in _UNREAD_KEYS:
            found[key] = value
        else:
            found[key] = _walk(value, visit, None)
    return found


def _walk_item(item: Any, visit: Visit) -> Any:
    return _walk_message(item, visit) if isinstance(item, dict) and "role" in item else _walk(item, visit, None)


def _walk_call(call: Any, visit: Visit) -> Any:
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        return call
    arguments = _walk(function.get("arguments"), visit, None)
    return {**call, "function": {**function, "arguments": arguments} if arguments is not None else function}


def _walk_media(medium: Any, visit: Visit) -> Any:
    if not isinstance(medium, dict):
        return medium
    found = {**medium, "path": visit(medium["path"], None)} if medium.get("path") else dict(medium)
    kind, data = medium.get("media_type") or "", medium.get("bytes")
    if data and (kind.startswith("text/") or kind.endswith(("json", "xml", "yaml", "toml", "x-sh", "javascript"))):
        with suppress(UnicodeDecodeError):
            found["bytes"] = visit(data.decode(), None).encode()
    return found


def _walk(value: JSON, visit: Visit, context: str | None) -> JSON:
    """The value with each text in it visited; context is what names it."""
    if isinstance(value, str):
        return visit(value, context)
    if isinstance(value, dict):
        named = None
        if "value" in value or "Value" in value:  # {"name": "DB_PASSWORD", "value": …}, as in tasks of ECS, Kubernetes
            named = next(
                (value[key] for key in ("name", "key", "Name", "Key") if isinstance(value.get(key), str)), None
            )
        return {
            visit(key, None): item
            if item is None or isinstance(item, int | float)
            else _walk(item, visit, context_of(named if named and key in ("value", "Value") else key))
            for key, item in value.items()
        }
    if isinstance(value, list):
        found = []
        for index, item in enumerate(value):
            before = value[index - 1] if index else None
            flag = isinstance(before, str) and before.startswith("-") and isinstance(item, str)
            found.append(_walk(item, visit, context_of(str(before)) if flag else context))
        return found
    return value
