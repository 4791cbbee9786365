"""The texts of a row: each is visited with what names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import orjson

from agent_rollouts.distill.redact.scan import context_of
from agent_rollouts.events import JSON
from agent_rollouts.jsontext import exact_text

Row: TypeAlias = Mapping[str, Any]
Visit: TypeAlias = Callable[[str, "str | None"], str]

_UNREAD = frozenset({"source_kind", "model", "started_at", "ended_at", "redactions", "redaction_policy"})
_UNREAD_KEYS = frozenset(
    {"role", "id", "name", "type", "timestamp", "origin", "phase", "tool_call_id", "weight_reason"}
)


def walk_row(row: Row, visit: Visit) -> dict[str, Any]:
    """The row with `visit(text, what names it)` for each of its texts."""
    return {column: walk_column(column, value, visit) for column, value in row.items()}


def walk_column(column: str, value: Any, visit: Visit) -> Any:
    """One column of it."""
    if column in _UNREAD or value is None:
        return value
    if column == "messages":
        return [_stored(message, lambda found: _walk_message(found, visit)) for message in value]
    if column == "media":
        return [_walk_media(medium, visit) for medium in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        return _stored(value, lambda found: _walk(found, visit, None))
    if isinstance(value, list):
        return [_stored(item, lambda found: _walk(found, visit, None)) for item in value]
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
    """The value with `visit(text, context)` for each text in it, keys included; context is what names it."""
    if isinstance(value, str):
        return visit(value, context)
    if isinstance(value, dict):
        # {"name": "DB_PASSWORD", "value": …}, as in tasks of ECS and of Kubernetes
        named = next((value[key] for key in ("name", "key", "Name", "Key") if isinstance(value.get(key), str)), None)
        return {
            visit(key, None): _walk(item, visit, context_of(named if named and key in ("value", "Value") else key))
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
