"""The row: one fixed schema for every format, and the messages in it.

`FEATURES` is documented by `COLUMNS`, the messages by `MESSAGE_KEYS`; README and card are made of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
from datasets import Features, Json, List, Value

from agent_rollouts.events import JSON
from agent_rollouts.jsontext import exact_text

if TYPE_CHECKING:
    from agent_rollouts.rollout import Rollout

_STRING = Value("string")

USAGE = {
    "input_tokens": Value("int64"),
    "output_tokens": Value("int64"),
    "cache_read_tokens": Value("int64"),
    "cache_write_tokens": Value("int64"),
    "reasoning_tokens": Value("int64"),
    "cost_usd": Value("float64"),
}

MEDIA = {"type": _STRING, "media_type": _STRING, "bytes": Value("binary"), "path": _STRING}

FEATURES = Features(
    {
        "trace_id": _STRING,
        "source_kind": _STRING,
        "source_path": _STRING,
        "root_session_id": _STRING,
        "parent_trace_id": _STRING,
        "agent_id": _STRING,
        "is_sidechain": Value("bool"),
        "cwd": _STRING,
        "project_path": _STRING,
        "git_branch": _STRING,
        "started_at": _STRING,
        "ended_at": _STRING,
        "model": _STRING,
        "messages": List(Json()),
        "tools": List(Json()),
        "media": List(MEDIA),
        "usage": USAGE,
        "completed": Value("bool"),
        "reward": Value("float64"),
        "message_count": Value("int64"),
        "tool_call_count": Value("int64"),
        "final_assistant_message": _STRING,
        "skipped": Json(),
        "source_meta": Json(),
    }
)

# Features make their Arrow schema anew each time they are asked for it.
SCHEMA = FEATURES.arrow_schema

COLUMNS = {
    "trace_id": "identity of the rollout, unique within a file; `#k` for its k-th further segment or branch",
    "source_kind": "name of the format",
    "source_path": "the file, as the user named it",
    "root_session_id": "the session that the rollout belongs to",
    "parent_trace_id": "the rollout that spawned it, or that it was forked from",
    "agent_id": "the sub-agent that speaks, null for the main agent",
    "is_sidechain": "whether it is the work of a sub-agent",
    "cwd": "working directory at the start",
    "project_path": "the project, as the source names it, else cwd",
    "git_branch": "branch at the start",
    "started_at": "earliest instant, ISO 8601",
    "ended_at": "latest instant, ISO 8601",
    "model": "the model that answered last; all are in source_meta.models",
    "messages": "the conversation, see the message keys",
    "tools": "function schemas offered to the model; null when the log does not say, [] when it says none",
    "media": "images, documents and sounds in order; messages point into it",
    "usage": "token counts as the source counts them (Anthropic's input_tokens leave out cached ones, OpenAI's do not)",
    "completed": "what the source itself says about completion, else null",
    "reward": "what the source itself says about reward, else null",
    "message_count": "number of messages",
    "tool_call_count": "number of tool calls",
    "final_assistant_message": "the last assistant text that is not empty",
    "skipped": "what was not used: `kind: reason` to count",
    "source_meta": "what is particular to the format",
}

MESSAGE_KEYS = {
    "role": "system, user, assistant or tool; always there",
    "content": "the text, always a string",
    "reasoning_content": "what the model thought before it answered (assistant)",
    "tool_calls": "list of {id, type: function, function: {name, arguments}} (assistant)",
    "tool_call_id": "the call that this answers (tool)",
    "name": "the tool that answers (tool)",
    "is_error": "whether the source says that the call failed (tool)",
    "media": "indices into the row's media",
    "id": "the source's own id",
    "timestamp": "when it was written, ISO 8601",
    "origin": "who wrote it, where not its role; see ORIGINS",
    "phase": "commentary or final_answer, where the model says (assistant)",
    "weight": "0 where it must not be trained on; absent means 1",
    "weight_reason": "why weight is 0",
}

ORIGINS = {
    "queued": "a prompt typed while the agent worked",
    "custom_command": "the user's own command or skill, which gives a task",
    "command": "a command of the agent's program itself",
    "command_output": "what such a command, or a shell line of the user, printed",
    "bash": "a shell line that the user ran beside the agent",
    "observation": "the outcome of an action that the model wrote as text, not as a tool call",
    "agent_message": "another agent's message",
    "notification": "news of a background task",
    "reminder": "a reminder or instruction that the program slips in",
    "environment": "the working environment: folder, date, editor, instructions files",
    "hook": "output of a hook",
    "skill": "the text of a skill or command",
    "attachment": "a file or picture that the program attached",
    "summary": "the summary that replaced earlier context",
    "interrupt": "the note that the user stopped the agent",
    "resume": "the note that the session goes on",
    "synthetic": "an assistant turn that the program wrote, not the model",
}

PROMPT_ORIGINS = frozenset({None, "queued", "custom_command"})
"""Origins of user messages that are prompts; all other user messages are plumbing."""

ROLES = ("system", "user", "assistant", "tool")


def check_message(message: Mapping[str, JSON]) -> None:
    """Hold one message against `MESSAGE_KEYS`.

    Raises:
        ValueError: an unknown key, a missing one, or a value of the wrong kind.
    """
    if unknown := set(message) - set(MESSAGE_KEYS):
        raise ValueError(f"unknown message keys {sorted(unknown)}; known: {', '.join(MESSAGE_KEYS)}")
    role = message.get("role")
    if role not in ROLES or not isinstance(message.get("content"), str):
        raise ValueError(f"message needs a role of {ROLES} and a string content, got {role!r}")
    if message.get("origin", "queued") not in ORIGINS:
        raise ValueError(f"unknown origin {message['origin']!r}; known: {', '.join(ORIGINS)}")
    only = {"assistant": {"reasoning_content", "tool_calls", "phase"}, "tool": {"tool_call_id", "name", "is_error"}}
    for owner, keys in only.items():
        if role != owner and (wrong := keys & set(message)):
            raise ValueError(f"{sorted(wrong)} on a {role} message; only {owner} messages have them")
    for call in message.get("tool_calls", ()):
        match call:
            case {"id": str(), "type": "function", "function": {"name": str(), "arguments": dict() | str()}}:
                pass
            case _:
                raise ValueError(f"malformed tool call: keys {sorted(call)}")
    if ("weight" in message) != ("weight_reason" in message) or message.get("weight", 0) != 0:
        raise ValueError("weight is 0 with a weight_reason, or absent")


def prompt_count(messages: Sequence[Mapping[str, JSON]]) -> int:
    """Number of user messages that are prompts and not plumbing."""
    return sum(m["role"] == "user" and m.get("origin") in PROMPT_ORIGINS for m in messages)


def row(rollout: Rollout) -> dict[str, Any]:
    """The row of a rollout as Python objects: what `FEATURES` describes, messages as dicts."""
    columns = _scalars(rollout)
    return {
        **{name: columns[name] for name in FEATURES if name in columns},
        "messages": list(rollout.messages),
        "tools": rollout.tools,
        "media": _media(rollout),
        "skipped": dict(rollout.skipped),
        "source_meta": rollout.source_meta,
    }


def encoded_row(rollout: Rollout) -> dict[str, Any]:
    """The row with its JSON columns as the very text that is stored."""
    columns = _scalars(rollout)
    columns |= {
        "messages": [bytes(rollout.messages.text(i)).decode() for i in range(len(rollout.messages))],
        "tools": None if rollout.tools is None else [_text(tool) for tool in rollout.tools],
        "media": _media(rollout),
        "skipped": _text(dict(rollout.skipped)),
        "source_meta": _text(rollout.source_meta),
    }
    return {name: columns[name] for name in FEATURES}


def table(rollouts: Sequence[Rollout]) -> pa.Table:
    """The rows of rollouts as one Arrow table of `FEATURES`.

    Message texts are taken over as they lie in memory: nothing is parsed or copied for one rollout.
    """
    derived: dict[str, list[Any]] = {
        "media": [_media(rollout) for rollout in rollouts],
        "usage": [_usage(rollout.usage) for rollout in rollouts],
        "message_count": [len(rollout.messages) for rollout in rollouts],
    }
    arrays: list[pa.Array] = []
    for field in SCHEMA:
        if field.name == "messages":
            messages = [_messages(rollout) for rollout in rollouts]
            # Putting one array together would copy it, too.
            arrays.append(pa.concat_arrays(messages) if len(messages) > 1 else messages[0])
        elif field.name == "tools":
            texts = [None if r.tools is None else [_text(tool) for tool in r.tools] for r in rollouts]
            arrays.append(pa.array(texts, pa.list_(pa.string())).cast(field.type))
        elif field.name in ("skipped", "source_meta"):
            values = [_text(getattr(rollout, field.name)) for rollout in rollouts]
            arrays.append(pa.ExtensionArray.from_storage(field.type, pa.array(values, pa.string())))
        else:
            values = derived.get(field.name) or [getattr(rollout, field.name) for rollout in rollouts]
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _messages(rollout: Rollout) -> pa.Array:
    messages = rollout.messages
    texts = pa.StringArray.from_buffers(len(messages), pa.py_buffer(messages.offsets), pa.py_buffer(messages.data))
    column = SCHEMA.field("messages").type
    values = pa.ExtensionArray.from_storage(column.value_type, texts)
    return pa.ListArray.from_arrays(pa.array(array("i", [0, len(messages)])), values, type=column)


def _scalars(rollout: Rollout) -> dict[str, Any]:
    derived = {"message_count": len(rollout.messages), "usage": _usage(rollout.usage)}
    return {
        name: derived[name] if name in derived else getattr(rollout, name)
        for name in FEATURES
        if name not in ("messages", "tools", "media", "skipped", "source_meta")
    }


def _usage(usage: Mapping[str, int | float] | None) -> dict[str, int | float | None] | None:
    if not usage:
        return None
    return {name: usage.get(name) for name in USAGE}


def _media(rollout: Rollout) -> list[dict[str, Any]]:
    return [{"type": m.type, "media_type": m.media_type, "bytes": m.data, "path": m.path} for m in rollout.media]


def _text(value: JSON) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return exact_text(value)
