"""Whole sessions beside the shapes, for the eye: one file of the Hub's STS format each, see `formats/sts.py`.

    OUT/sessions/<hash of source_kind, source_path and trace_id>.jsonl

They are written as they were curated: redacted, of families that are in a split, before they are cut into windows. The
header also names what a session belongs to, by which it can be revoked, and the redaction policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import pyarrow as pa

from agent_rollouts import jsontext
from agent_rollouts.distill.families import key
from agent_rollouts.distill.redact import Place, audit_rows
from agent_rollouts.distill.splits import family
from agent_rollouts.distill.spool import to_json
from agent_rollouts.distill.state import digest

SESSIONS = "sessions"
_NAME = re.compile(rf"{SESSIONS}/[0-9a-f]{{32}}\.jsonl")
SCHEMA = pa.schema({"name": pa.string(), "family_id": pa.string(), "text": pa.large_string()})
"""The schema of sessions on their way."""

LINKS = ("trace_id", "parent_trace_id", "root_session_id", "family_id")
"""Keys of a header that say to what a session belongs."""

# A key of a message in a row, and in a session.
_KEYS = {
    "role": "role",
    "content": "content",
    "reasoning_content": "reasoningContent",
    "tool_calls": "toolCalls",
    "tool_call_id": "toolCallId",
}
_ROW_KEYS = {theirs: ours for ours, theirs in _KEYS.items()}
# What Python's splitlines, by which `datasets` reads sessions, takes for the end of a line, too.
_BREAKS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """What is written beside the shapes."""

    with_sessions: Annotated[bool, "Write whole sessions, too, for the trace viewer of the Hub (REPO-sessions)"] = False


def is_session(name: str) -> bool:
    """Whether a path in a dataset is that of a session."""
    return _NAME.fullmatch(name) is not None


def name_of(source_kind: str, source_path: str, trace_id: str) -> str:
    """The path of the session of a row, by the names that are written of it."""
    return f"{SESSIONS}/{digest(chr(0).join((source_kind, source_path, trace_id)))}.jsonl"


def session(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as a session of `SCHEMA`."""
    meta = row.get("source_meta") or {}
    header = {
        "type": "session",
        "harness": row.get("source_kind") or "agent-rollouts",
        "id": row.get("trace_id"),
        "name": meta.get("title") if isinstance(meta, Mapping) else None,
        "model": row.get("model"),
        "timestamp": row.get("started_at"),
        **{name: row.get(name) for name in LINKS},
        "family_id": family(row),
        "redaction_policy": row.get("redaction_policy"),
    }
    lines: list[dict[str, Any]] = [{name: value for name, value in header.items() if value is not None}]
    lines += ({"type": "message", "message": _message(message)} for message in row["messages"])
    text = "".join(to_json(line).lstrip(" ").translate(_BREAKS) + "\n" for line in lines)
    return {"name": name_of(*key(row)), "family_id": family(row), "text": text}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    found = {theirs: message[ours] for ours, theirs in _KEYS.items() if message.get(ours) is not None}
    if message["role"] == "assistant":
        # Also none: `datasets` tells sessions by messages of the first file that differ in their keys.
        found["toolCalls"] = [_call(call) for call in found.get("toolCalls", ())]
    if (stamp := _milliseconds(message.get("timestamp"))) is not None:
        found["timestamp"] = stamp
    return found


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    text = arguments if isinstance(arguments, str) else to_json(arguments if arguments is not None else {}).lstrip(" ")
    named = {"id": call["id"]} if call.get("id") else {}
    return {**named, "type": "function", "function": {"name": call["function"]["name"], "arguments": text}}


def _milliseconds(stamp: Any) -> int | None:
    try:
        return round(datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() * 1000)
    except (AttributeError, ValueError, OverflowError):
        return None


def header(path: Path) -> dict[str, Any]:
    """The header of a session that was written here; an empty one of another file."""
    with path.open("rb") as file:
        try:
            found = orjson.loads(file.readline())
        except ValueError:
            return {}
    return found if isinstance(found, dict) else {}


def audit(path: Path, **options: Any) -> Iterator[Place]:
    """What redaction would still find in a session, its messages seen as those of a row; rows are lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            for place in audit_rows([_as_row(line)], **options, file=str(path)):
                yield place._replace(row=number)


def _as_row(line: bytes) -> dict[str, Any]:
    try:
        found = jsontext.loads_exactly(line.decode())
    except ValueError:
        return {"line": line.decode("utf-8", "replace")}
    message = found.get("message") if isinstance(found, dict) else None
    if not isinstance(message, dict):
        return found if isinstance(found, dict) else {"line": found}
    told = {_ROW_KEYS.get(name, name): value for name, value in message.items()}
    if isinstance(calls := told.get("tool_calls"), list):
        told["tool_calls"] = [_parsed(call) for call in calls]
    return {**{name: value for name, value in found.items() if name != "message"}, "messages": [told]}


def _parsed(call: Any) -> Any:
    """A call with arguments as they were when they were redacted."""
    match call:
        case {"function": {"arguments": str(text)} as function}:
            return {**call, "function": {**function, "arguments": jsontext.arguments(text)}}
    return call
